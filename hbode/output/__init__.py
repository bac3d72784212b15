"""What is read off the steps of a solve: dense output, and the steps themselves."""
