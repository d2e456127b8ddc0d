"""What the two scripts share: options, settings, the launch of a run, errors."""
