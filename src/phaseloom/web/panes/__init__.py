"""The panes of the page: thin, on Panel and Bokeh (extra ``web``)."""
