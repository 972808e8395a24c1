"""What the page reads and computes, without Panel: run folders, images, forms, jobs, comparisons."""
