"""What is done to images and networks to see what a map is worth."""
