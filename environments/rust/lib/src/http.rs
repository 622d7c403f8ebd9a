//! HTTP/1.1, as much as one connection to the router or a fetcher needs.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::message::{Body, Request, Response};

const MAX_HEAD: u64 = 64 * 1024;
const MAX_BODY: u64 = 256 << 20;

/// One client.
pub struct Connection {
    reader: BufReader<TcpStream>,
    /// Whether the client wants to go on after this request.
    pub keep: bool,
}

/// Lines of a request before its body.
pub struct Head {
    request: Request,
    version: String,
}

impl Connection {
    /// Of a stream.
    pub fn new(stream: TcpStream) -> Self {
        Self { reader: BufReader::with_capacity(65536, stream), keep: true }
    }

    /// The next head; nothing when the client has left.
    pub fn head(&mut self) -> Result<Option<Head>, Error> {
        let mut left = MAX_HEAD;
        let first = match self.line(&mut left)? {
            Some(line) if !line.is_empty() => line,
            _ => return Ok(None),
        };
        let mut words = first.split(' ');
        let (method, target, version) = match (words.next(), words.next(), words.next(), words.next()) {
            (Some(method), Some(target), Some(version), None) => (method, target, version),
            _ => return Err(self.refuse(400, "not an HTTP request")),
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            ..Request::default()
        };
        loop {
            let line = self.line(&mut left)?.ok_or(ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                return Ok(Some(Head { request, version: version.to_owned() }));
            }
            match line.split_once(':') {
                Some((name, value)) => {
                    request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
                None => return Err(self.refuse(400, "a header without a colon")),
            }
        }
    }

    /// The rest of the request.
    pub fn request(&mut self, head: Head) -> Result<Request, Error> {
        let Head { mut request, version } = head;
        let wish = request.header("connection").unwrap_or_default().to_ascii_lowercase();
        self.keep = if version == "HTTP/1.1" { wish != "close" } else { wish == "keep-alive" };
        let expect = request.header("expect").unwrap_or_default();
        if expect.eq_ignore_ascii_case("100-continue") {
            self.reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let coding = request.header("transfer-encoding").unwrap_or_default();
        request.body = if coding.to_ascii_lowercase().contains("chunked") {
            self.chunks()?
        } else {
            match request.header("content-length").unwrap_or("0").parse::<u64>() {
                Ok(length) => self.exactly(length, 0)?,
                Err(_) => return Err(self.refuse(400, "content-length is no number")),
            }
        };
        Ok(request)
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        loop {
            let mut left = MAX_HEAD;
            let line = self.line(&mut left)?.ok_or(ErrorKind::UnexpectedEof)?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = match u64::from_str_radix(digits, 16) {
                Ok(size) => size,
                Err(_) => return Err(self.refuse(400, "a chunk without a size")),
            };
            if size == 0 {
                while self.line(&mut left)?.map_or(false, |line| !line.is_empty()) {}
                return Ok(body);
            }
            let piece = self.exactly(size, body.len() as u64)?;
            body.extend_from_slice(&piece);
            self.line(&mut left)?;
        }
    }

    fn exactly(&mut self, length: u64, before: u64) -> Result<Vec<u8>, Error> {
        if length.saturating_add(before) > MAX_BODY {
            return Err(self.refuse(413, "the body is too large"));
        }
        let mut body = Vec::new();
        (&mut self.reader).take(length).read_to_end(&mut body)?;
        if (body.len() as u64) < length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(body)
    }

    fn line(&mut self, left: &mut u64) -> Result<Option<String>, Error> {
        let mut line = Vec::new();
        let count = (&mut self.reader).take(*left).read_until(b'\n', &mut line)? as u64;
        *left -= count;
        if line.pop() != Some(b'\n') {
            if *left == 0 {
                return Err(self.refuse(431, "the head is too large"));
            }
            return Ok(None);
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }

    fn refuse(&mut self, status: u16, words: &str) -> Error {
        // The error says the same to the caller.
        _ = self.send(Response::new(status).text(words), false, false);
        Error::new(ErrorKind::InvalidData, words)
    }

    /// An answer.
    pub fn send(&mut self, response: Response, keep: bool, head_only: bool) -> Result<(), Error> {
        let Response { status, headers, body } = response;
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        for (name, value) in &headers {
            if name.contains(['\r', '\n']) || value.contains(['\r', '\n']) {
                return Err(Error::new(ErrorKind::InvalidData, "a header with a line break"));
            }
            head += &format!("{name}: {value}\r\n");
        }
        if !keep {
            head += "Connection: close\r\n";
        }
        let bare = matches!(status, 204 | 304);
        let stream = self.reader.get_mut();
        match body {
            Body::Whole(body) => {
                if !bare {
                    head += &format!("Content-Length: {}\r\n", body.len());
                }
                head += "\r\n";
                let mut bytes = head.into_bytes();
                if !bare && !head_only {
                    bytes.extend_from_slice(&body);
                }
                stream.write_all(&bytes)
            }
            Body::Pieces(pieces) => {
                head += "Transfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes())?;
                if head_only {
                    return Ok(());
                }
                for piece in pieces.filter(|piece| !piece.is_empty()) {
                    let mut bytes = format!("{:x}\r\n", piece.len()).into_bytes();
                    bytes.extend_from_slice(&piece);
                    bytes.extend_from_slice(b"\r\n");
                    stream.write_all(&bytes)?;
                }
                stream.write_all(b"0\r\n\r\n")
            }
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        _ => "",
    }
}
