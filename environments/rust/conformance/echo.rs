use farplane_function::Request;

pub fn handler(request: Request) -> Vec<u8> {
    request.body
}
