"""Container images without a container engine. Nothing here knows of the server: values and folders in, images out."""
