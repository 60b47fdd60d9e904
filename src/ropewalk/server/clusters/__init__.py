"""The life of clusters: wishes come in as rows, the reconciler makes them true."""
