//! What a handler gets and gives.

/// A call.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path as it was sent, without the query.
    pub path: String,
    /// Query as it was sent, without the question mark.
    pub query: String,
    /// Headers in their order; names are lower-case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The first parameter of this name in the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }

    /// The body as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let rest = bytes.two_digits();
        match (byte, rest) {
            (b'+', _) => out.push(b' '),
            (b'%', Some(value)) => {
                out.push(value);
                bytes.next();
                bytes.next();
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The next two bytes as hexadecimal digits.
trait Hexadecimal {
    fn two_digits(&self) -> Option<u8>;
}

impl Hexadecimal for std::str::Bytes<'_> {
    fn two_digits(&self) -> Option<u8> {
        let mut ahead = self.clone();
        let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
        let (high, low) = (digit(ahead.next())?, digit(ahead.next())?);
        u8::try_from(high * 16 + low).ok()
    }
}

/// Body of an answer.
pub enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// Pieces, sent as they come.
    Pieces(Box<dyn Iterator<Item = Vec<u8>>>),
}

/// An answer.
pub struct Response {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Body,
}

impl Response {
    /// An empty answer.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(Vec::new()) }
    }

    /// With a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With these bytes.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// With this text.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.header("Content-Type", "text/plain; charset=utf-8").body(text.into())
    }

    /// With pieces that are sent as they come.
    pub fn pieces<I, P>(mut self, pieces: I) -> Self
    where
        I: IntoIterator<Item = P>,
        I::IntoIter: 'static,
        P: Into<Vec<u8>> + 'static,
    {
        self.body = Body::Pieces(Box::new(pieces.into_iter().map(Into::into)));
        self
    }
}

/// What a handler may give.
pub trait IntoResponse {
    /// As an answer.
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        Response::new(200).text(self)
    }
}

impl IntoResponse for &str {
    fn into_response(self) -> Response {
        Response::new(200).text(self)
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        Response::new(200).header("Content-Type", "application/octet-stream").body(self)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::new(204)
    }
}

impl<R: IntoResponse, E: std::fmt::Display> IntoResponse for Result<R, E> {
    fn into_response(self) -> Response {
        self.map_or_else(
            |error| {
                eprintln!("{error}");
                Response::new(500).text(error.to_string())
            },
            IntoResponse::into_response,
        )
    }
}
