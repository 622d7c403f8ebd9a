sub main {
    my ($request) = @_;
    return {
        method => $request->method,
        path => $request->path,
        a => $request->param('a'),
        b => $request->param('b'),
        question => $request->header('X-Question'),
    };
}
1;
