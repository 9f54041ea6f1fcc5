//! As much JSON as the eval endpoint's lines need: strings, and objects of strings.

/// A text as a JSON string.
pub(super) fn escape(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\0'..=' ' if character != ' ' => json.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => json.push(character),
        }
    }
    json.push('"');
    json
}

/// The names and values of an object whose values are all strings; `None` for anything else.
pub(super) fn object(json: &str) -> Option<Vec<(String, String)>> {
    let mut rest = json.trim_matches(SPACE).strip_prefix('{')?.trim_start_matches(SPACE);
    let mut fields = Vec::new();
    if let Some(rest) = rest.strip_prefix('}') {
        return rest.is_empty().then_some(fields);
    }
    loop {
        let (name, after) = string(rest)?;
        let (value, after) = string(after.strip_prefix(':')?.trim_start_matches(SPACE))?;
        fields.push((name, value));
        match after.strip_prefix(',') {
            Some(after) => rest = after.trim_start_matches(SPACE),
            None => return (after == "}").then_some(fields),
        }
    }
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// A string at the beginning, and what follows it and white space.
fn string(json: &str) -> Option<(String, &str)> {
    let json = json.strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = json.chars();
    loop {
        match characters.next()? {
            '"' => return Some((text, characters.as_str().trim_start_matches(SPACE))),
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                'r' => text.push('\r'),
                't' => text.push('\t'),
                'b' => text.push('\u{8}'),
                'f' => text.push('\u{c}'),
                'u' => text.push(escaped(&mut characters)?),
                other @ ('"' | '\\' | '/') => text.push(other),
                _ => return None,
            },
            other => text.push(other),
        }
    }
}

/// What stands after `\u`: a character, or the first half of one whose other half follows. A half alone is no character.
fn escaped(characters: &mut std::str::Chars<'_>) -> Option<char> {
    let first = unit(characters)?;
    if (0xd800..0xdc00).contains(&first) {
        let mut ahead = characters.clone();
        if (ahead.next(), ahead.next()) == (Some('\\'), Some('u'))
            && let Some(second) = unit(&mut ahead).filter(|second| (0xdc00..0xe000).contains(second))
        {
            *characters = ahead;
            return char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
        }
    }
    Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
}

fn unit(characters: &mut std::str::Chars<'_>) -> Option<u32> {
    (0..4).try_fold(0, |number, _| Some(number << 4 | characters.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_escaped_is_read_back(ok in any::<String>(), error in any::<String>()) {
            let json = format!(" {{ {} : {} , \"error\":{} }}\n", escape("ok"), escape(&ok), escape(&error));
            prop_assert!(!escape(&ok).contains('\n'));
            prop_assert_eq!(object(&json), Some(vec![("ok".to_owned(), ok), ("error".to_owned(), error)]));
        }

        #[test]
        fn any_text_is_read_without_a_panic(json in any::<String>(), inner in "[\\\\u\"d89a-f0-9:,{}]*") {
            let _ = (object(&json), object(&format!("{{\"ok\":\"{inner}")), string(&inner));
        }
    }

    #[test]
    fn escapes_of_all_kinds() {
        assert_eq!(escape("a\"\\\n\u{1}é"), r#""a\"\\\n\u0001é""#);
        let text = |json: &str| object(&format!("{{\"ok\":\"{json}\"}}")).map(|fields| fields[0].1.clone());
        assert_eq!(text(r"\u00e9\ud83d\ude00\/\b\f").as_deref(), Some("é😀/\u{8}\u{c}"));
        assert_eq!(text(r"\ud83d!\ude00\ud83d\u0041").as_deref(), Some("\u{fffd}!\u{fffd}\u{fffd}A"));
        assert_eq!(text(r"\u12"), None);
        assert_eq!(text(r"\x"), None);
        assert_eq!(object("{}"), Some(vec![]));
        for bad in ["", "{", r#"{"ok""#, r#"{"ok":1}"#, r#"{"ok":"x"} y"#, r#"{"ok":"x",}"#, r#"["ok"]"#] {
            assert_eq!(object(bad), None, "{bad}");
        }
    }
}
