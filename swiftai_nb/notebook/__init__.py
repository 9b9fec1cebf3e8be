"""The only floor that knows IPython, ipywidgets and anywidget."""
