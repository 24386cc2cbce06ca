"""What maps and regions look like, and the pictures of them."""
