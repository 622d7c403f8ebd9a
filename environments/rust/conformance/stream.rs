use farplane_function::{Request, Response};
use std::time::Duration;

pub fn handler(_: Request) -> Response {
    Response::new(200).pieces((0..5).map(|number| {
        if number > 0 {
            std::thread::sleep(Duration::from_millis(200));
        }
        format!("{number}\n")
    }))
}
