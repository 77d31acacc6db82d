"""The method as pure tensors: composite distributions, sample spaces, switching, and the trace of one answer."""
