"""What the page reads and computes, without Panel: run folders, images in few bytes, forms, jobs, comparisons."""
