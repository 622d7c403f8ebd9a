use farplane_function::Request;

pub fn handler(_: Request) -> &'static str {
    panic!("this call fails")
}
