"""Experiments that come with jaxgen and take any images: `jaxgen train folder_gan --folder ~/pictures`."""
