"""What the paper does without and users expect: further functions, layers, and methods of tensors."""
