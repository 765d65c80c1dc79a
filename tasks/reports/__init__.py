"""Reports: runs read, grouped, compared, and written as a page."""
