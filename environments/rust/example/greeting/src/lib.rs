use farplane_function::{Request, Response};

pub fn handler(request: Request) -> Response {
    let mut buffer = itoa::Buffer::new();
    let length = buffer.format(request.body.len());
    Response::new(200).text(format!("Hello! You sent {length} bytes.\n"))
}
