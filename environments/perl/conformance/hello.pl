return sub {
    my ($request) = @_;
    return "Hello, world!\n";
};
