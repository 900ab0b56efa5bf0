//! The head and the body of an answer in HTTP/1.1, as far as a person wants to read them. Pure; what is cut off, wrong or
//! hostile gives less text, never an error.

/// Whether all of the answer is here, as far as it says how long it is.
pub(super) fn is_complete(answer: &[u8]) -> bool {
    let Some((head, body)) = split(answer) else {
        return false;
    };
    if is_chunked(&head) {
        return body.ends_with(b"0\r\n\r\n");
    }
    let length = header(&head, "content-length").and_then(|text| text.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

/// The content type and the beginning of the body, at most `most` bytes.
pub(super) fn read(answer: &[u8], most: usize) -> (String, String) {
    let Some((head, body)) = split(answer) else {
        return (String::new(), String::new());
    };
    let content_type = header(&head, "content-type").unwrap_or_default();
    let length = header(&head, "content-length").and_then(|text| text.parse::<usize>().ok());
    let body = if is_chunked(&head) {
        without_chunks(body, most)
    } else {
        let end = length.unwrap_or(usize::MAX).min(body.len()).min(most);
        body[..end].to_vec()
    };
    (text(content_type.as_bytes(), 255), text(&body, most))
}

fn split(answer: &[u8]) -> Option<(String, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    Some((head, &answer[end + 4..]))
}

fn header(head: &str, name: &str) -> Option<String> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

fn is_chunked(head: &str) -> bool {
    header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
}

fn without_chunks(mut body: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < most {
        let Some(end) = body.windows(2).position(|two| two == b"\r\n") else {
            break;
        };
        let size = std::str::from_utf8(&body[..end])
            .ok()
            .and_then(|line| usize::from_str_radix(line.split(';').next()?.trim(), 16).ok());
        let Some(size) = size.filter(|size| *size > 0) else {
            break;
        };
        let chunk = &body[end + 2..];
        out.extend_from_slice(&chunk[..size.min(chunk.len()).min(most - out.len())]);
        let Some(next) = size.checked_add(2).and_then(|past| chunk.get(past..)) else {
            break;
        };
        body = next;
    }
    out
}

/// As text without control characters (but for line ends and tabs), at most that many bytes.
fn text(bytes: &[u8], most: usize) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            continue;
        }
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bodies_are_read_in_each_of_their_forms() {
        for (answer, complete, body) in [
            ("HTTP/1.1 200 OK\r\n\r\nup\x07", false, "up"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup", true, "up"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup",
                false,
                "up",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwai\r\n1;x=y\r\nt\r\n0\r\n\r\n",
                true,
                "wait",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
                false,
                "x",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Type: t", false, ""),
        ] {
            assert_eq!(is_complete(answer.as_bytes()), complete, "{answer:?}");
            assert_eq!(read(answer.as_bytes(), 4096).1, body, "{answer:?}");
        }
        let typed = b"HTTP/1.1 200 OK\r\ncontent-TYPE:  text/plain \r\n\r\nab";
        assert_eq!(read(typed, 1), ("text/plain".to_owned(), "a".to_owned()));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded_text(
            head in "(Transfer-Encoding: chunked\r\n|Content-Length: [0-9]{1,20}\r\n|)",
            body in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'f')], 0..200),
        ) {
            let mut answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n").into_bytes();
            answer.extend(body);
            let _ = is_complete(&answer);
            let (_, text) = read(&answer, 64);
            prop_assert!(text.len() <= 64);
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }
    }
}
