"""Examples and the views made of them."""
