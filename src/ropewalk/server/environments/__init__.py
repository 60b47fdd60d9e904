"""What nodes run from: images in the registries of cloud accounts."""
