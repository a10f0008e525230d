"""What both backends decide about an inner loop before an array exists."""
