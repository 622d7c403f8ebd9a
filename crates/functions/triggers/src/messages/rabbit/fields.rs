//! Properties of messages as headers, and headers as properties. Pure.

use http::{HeaderMap, header};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

/// Written to the disk of the server, where the queue is.
const PERSISTENT: u8 = 2;
/// Of all headers: they must fit into one frame, or the server ends the connection.
const HEADERS_ROOM: usize = 64 * 1024;

/// Names and values of what a message says about itself. Lists and tables are not read.
pub(super) fn read(properties: &BasicProperties) -> Vec<(String, Vec<u8>)> {
    let own = [
        (header::CONTENT_TYPE, properties.content_type()),
        (header::CONTENT_ENCODING, properties.content_encoding()),
    ];
    let mut pairs = Vec::new();
    for (name, value) in own {
        if let Some(value) = value {
            pairs.push((name.to_string(), value.as_str().as_bytes().to_vec()));
        }
    }
    let own = pairs.len();
    for (name, value) in properties.headers().iter().flatten() {
        let is_told = |(told, _): &(String, _)| name.as_str().eq_ignore_ascii_case(told);
        if let Some(value) = text(value).filter(|_| !pairs[..own].iter().any(is_told)) {
            pairs.push((name.to_string(), value));
        }
    }
    pairs
}

fn text(value: &AMQPValue) -> Option<Vec<u8>> {
    let number = match value {
        AMQPValue::LongString(text) => return Some(text.as_bytes().to_vec()),
        AMQPValue::ShortString(text) => return Some(text.as_str().as_bytes().to_vec()),
        AMQPValue::ByteArray(bytes) => return Some(bytes.as_slice().to_vec()),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        AMQPValue::Timestamp(value) => value.to_string(),
        _ => return None,
    };
    Some(number.into_bytes())
}

/// Properties of a message that is kept, with those headers for which there is room.
pub(super) fn written(headers: &HeaderMap) -> BasicProperties {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let (mut table, mut room) = (FieldTable::default(), HEADERS_ROOM);
    for (name, value) in headers {
        let short = value
            .to_str()
            .ok()
            .and_then(|value| ShortString::try_new(value).ok());
        properties = match short {
            Some(value) if name == header::CONTENT_TYPE => properties.with_content_type(value),
            Some(value) if name == header::CONTENT_ENCODING => {
                properties.with_content_encoding(value)
            }
            _ => {
                let size = name.as_str().len() + value.len() + 8;
                let key = ShortString::try_new(name.as_str());
                if let (Ok(key), Some(left)) = (key, room.checked_sub(size)) {
                    room = left;
                    table.insert(key, LongString::from(value.as_bytes()).into());
                }
                properties
            }
        };
    }
    properties.with_headers(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn what_is_written_is_read() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.insert("x-app", HeaderValue::from_static("1"));
        let properties = written(&headers);
        assert_eq!(*properties.delivery_mode(), Some(PERSISTENT));
        let pairs = read(&properties);
        let pair = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        assert_eq!(
            pairs,
            [pair("content-type", "text/plain"), pair("x-app", "1")]
        );
    }

    #[test]
    fn values_become_text_and_own_properties_win() {
        let mut table = FieldTable::default();
        table.insert("Content-Type".into(), LongString::from("b/b").into());
        table.insert("n".into(), AMQPValue::LongInt(-7));
        table.insert("list".into(), AMQPValue::FieldArray(Vec::new().into()));
        table.insert("yes".into(), AMQPValue::Boolean(true));
        let properties = BasicProperties::default()
            .with_content_type("a/a".into())
            .with_headers(table);
        let pairs: Vec<String> = read(&properties)
            .into_iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8(value).unwrap()))
            .collect();
        assert_eq!(pairs, ["content-type=a/a", "n=-7", "yes=true"]);
    }

    #[test]
    fn headers_fit_into_a_frame() {
        let mut headers = HeaderMap::new();
        for number in 0..20 {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            headers.insert(name, HeaderValue::try_from("v".repeat(10_000)).unwrap());
        }
        let long = HeaderName::try_from("n".repeat(300)).unwrap();
        headers.insert(long, HeaderValue::from_static("1"));
        let pairs = read(&written(&headers));
        assert_eq!(pairs.len(), 6);
    }
}
