use farplane_function::Request;

pub fn handler(_: Request) -> &'static str {
    "Hello, world!\n"
}
