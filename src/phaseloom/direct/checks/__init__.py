"""What the linear model of a bright field does not see by itself: a mirrored detector, and folded details."""
