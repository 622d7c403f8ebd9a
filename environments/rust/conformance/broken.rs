use farplane_function::Request;

pub fn init() {
    panic!("no such thing")
}

pub fn handler(_: Request) {}
