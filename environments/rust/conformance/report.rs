use farplane_function::{Request, Response};

pub fn handler(request: Request) -> Response {
    let told = format!(
        "{{\"method\":{:?},\"path\":{:?},\"a\":{:?},\"b\":{:?},\"question\":{:?}}}",
        request.method,
        request.path,
        request.parameter("a").unwrap_or_default(),
        request.parameter("b").unwrap_or_default(),
        request.header("X-Question").unwrap_or_default(),
    );
    Response::new(200).header("Content-Type", "application/json").body(told)
}
