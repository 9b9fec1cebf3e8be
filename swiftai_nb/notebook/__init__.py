"""The only package that imports IPython, ipywidgets and anywidget."""
