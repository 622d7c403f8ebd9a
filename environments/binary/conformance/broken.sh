#!/no such thing
