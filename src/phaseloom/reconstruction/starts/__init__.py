"""What a reconstruction may begin with: a first image, and trials that compare starts."""
