//! What a destination is told of a call: its result. Pure.

use serde_json::{Value, json};

use crate::invocations::policy::Condition;
use crate::invocations::record::Record;

/// Of each payload; a longer one is left out.
const LONGEST_PAYLOAD: usize = 64 * 1024;
const VERSION: &str = "1.0";

/// The result of a call as JSON.
pub(crate) fn write(
    record: &Record,
    request: &[u8],
    condition: Condition,
    attempts: u32,
    status: Option<u16>,
    response: &[u8],
) -> Vec<u8> {
    let mut result = json!({
        "version": VERSION,
        "requestContext": {
            "invocationId": record.id,
            "functionRef": format!("{}/{}", record.namespace, record.function),
            "condition": condition.as_str(),
            "attempts": attempts,
            "depth": record.depth,
        },
        "requestPayload": payload(request),
        "responsePayload": payload(response),
    });
    if let Some(status) = status {
        result["responseContext"] = json!({ "statusCode": status });
    }
    result.to_string().into_bytes()
}

/// JSON as it is, other text as a string, anything else as nothing.
fn payload(bytes: &[u8]) -> Value {
    if bytes.is_empty() || bytes.len() > LONGEST_PAYLOAD {
        return Value::Null;
    }
    serde_json::from_slice(bytes)
        .or_else(|_| std::str::from_utf8(bytes).map(|text| Value::String(text.to_owned())))
        .unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocations::policy::tests::record;

    #[test]
    fn a_result_says_what_was_asked_and_what_came_of_it() {
        let written = write(
            &record(),
            br#"{"a":1}"#,
            Condition::RetriesExhausted,
            3,
            Some(500),
            b"broken",
        );
        let result: Value = serde_json::from_slice(&written).unwrap();
        let expected = json!({
            "version": "1.0",
            "requestContext": {
                "invocationId": "1", "functionRef": "ns/f", "condition": "RetriesExhausted",
                "attempts": 3, "depth": 0,
            },
            "requestPayload": { "a": 1 },
            "responseContext": { "statusCode": 500 },
            "responsePayload": "broken",
        });
        assert_eq!(result, expected);
    }

    #[test]
    fn payloads_that_are_long_or_no_text_are_left_out() {
        assert_eq!(payload(b""), Value::Null);
        assert_eq!(payload(&[0xff, 0xfe]), Value::Null);
        assert_eq!(payload(&vec![b'1'; LONGEST_PAYLOAD + 1]), Value::Null);
    }
}
