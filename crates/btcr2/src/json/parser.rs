//! A strict parser of RFC 8259 with the limits of the parent module.

use serde_json::{Map, Number, Value};

use super::Limits;

/// The largest whole number up to which every whole number is a double: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Why a text is not taken as JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is longer than its kind may be.
    #[error("got {got} bytes of JSON, expected at most {max}")]
    TooLong {
        /// Its length in bytes.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// The text is not UTF-8.
    #[error("got bytes that are not UTF-8 at byte {at}, expected JSON in UTF-8")]
    NotUtf8 {
        /// Where, in bytes from the start.
        at: usize,
    },
    /// The text does not follow the grammar.
    #[error("got {got} at byte {at} of the JSON text, expected {expected}")]
    Syntax {
        /// Where, in bytes from the start.
        at: usize,
        /// The character there, or the end.
        got: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// Arrays and objects are too deep inside one another.
    #[error(
        "got more than {max} levels of arrays and objects at byte {at}, expected at most {max}"
    )]
    TooDeep {
        /// Where, in bytes from the start.
        at: usize,
        /// The limit.
        max: usize,
    },
    /// There are too many values.
    #[error("got more than {max} values in the JSON text, expected at most {max}")]
    TooManyNodes {
        /// The limit.
        max: usize,
    },
    /// An object names a member twice, so that two readers could see different values.
    #[error("got the member {key:?} a second time at byte {at}, expected each member once")]
    RepeatedMember {
        /// Where the second one starts, in bytes from the start.
        at: usize,
        /// The member's name.
        key: String,
    },
    /// A number is larger than any IEEE 754 double.
    #[error("got the number {number} at byte {at}, expected one that an IEEE 754 double can hold")]
    NumberTooLarge {
        /// Where, in bytes from the start.
        at: usize,
        /// The number, shortened.
        number: String,
    },
    /// An escape stands for half of a surrogate pair, which is no character.
    #[error("got half of a surrogate pair at byte {at}, expected both or none")]
    LoneSurrogate {
        /// Where, in bytes from the start.
        at: usize,
    },
}

/// Parses one JSON value and nothing after it.
pub fn parse(text: &[u8], limits: &Limits) -> Result<Value, JsonError> {
    if text.len() > limits.bytes {
        return Err(JsonError::TooLong {
            got: text.len(),
            max: limits.bytes,
        });
    }
    let text = std::str::from_utf8(text).map_err(|error| JsonError::NotUtf8 {
        at: error.valid_up_to(),
    })?;
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
        nodes: 0,
        limits,
    };
    let value = parser.value()?;
    parser.white_space();
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.unexpected("the end of the text")),
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Always on a character's first byte.
    at: usize,
    depth: usize,
    nodes: usize,
    limits: &'a Limits,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Value, JsonError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(JsonError::TooManyNodes {
                max: self.limits.nodes,
            });
        }
        self.white_space();
        match self.peek() {
            Some(b'{') => self.inside(Self::object),
            Some(b'[') => self.inside(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.unexpected("a JSON value")),
        }
    }

    /// Steps over the opening bracket and one level down.
    fn inside(
        &mut self,
        read: fn(&mut Self) -> Result<Value, JsonError>,
    ) -> Result<Value, JsonError> {
        if self.depth == self.limits.depth {
            return Err(JsonError::TooDeep {
                at: self.at,
                max: self.limits.depth,
            });
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, JsonError> {
        let mut members = Map::new();
        self.white_space();
        if self.takes(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.white_space();
            let at = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("the name of a member"));
            }
            let key = self.string()?;
            if members.contains_key(&key) {
                return Err(JsonError::RepeatedMember {
                    at,
                    key: super::shorten_text(key),
                });
            }
            self.white_space();
            if !self.takes(b':') {
                return Err(self.unexpected("a colon"));
            }
            let value = self.value()?;
            members.insert(key, value);
            self.white_space();
            if self.takes(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.takes(b',') {
                return Err(self.unexpected("a comma or the end of the object"));
            }
        }
    }

    fn array(&mut self) -> Result<Value, JsonError> {
        let mut items = Vec::new();
        self.white_space();
        if self.takes(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.white_space();
            if self.takes(b']') {
                return Ok(Value::Array(items));
            }
            if !self.takes(b',') {
                return Err(self.unexpected("a comma or the end of the array"));
            }
        }
    }

    fn word(&mut self, word: &'static str, value: Value) -> Result<Value, JsonError> {
        if !self.rest().starts_with(word) {
            return Err(self.unexpected("true, false or null"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Number, JsonError> {
        let start = self.at;
        self.takes(b'-');
        if !self.takes(b'0') {
            self.digits()?;
        }
        if self.takes(b'.') {
            self.digits()?;
        }
        if self.takes(b'e') || self.takes(b'E') {
            let _sign = self.takes(b'+') || self.takes(b'-');
            self.digits()?;
        }
        let written = self.text.get(start..self.at).unwrap_or_default();
        let too_large = || JsonError::NumberTooLarge {
            at: start,
            number: written.chars().take(32).collect(),
        };
        // The standard library rounds correctly, which RFC 8785 needs.
        let double: f64 = written.parse().map_err(|_| too_large())?;
        if double.fract() == 0.0 && double.abs() <= MAX_EXACT {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a whole number of at most 2^53"
            )]
            return Ok(Number::from(double as i64));
        }
        Number::from_f64(double).ok_or_else(too_large)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let length = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return Err(self.unexpected("a digit"));
        }
        self.at += length;
        Ok(())
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let rest = self.rest();
            let plain = rest
                .bytes()
                .take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f))
                .count();
            string.push_str(rest.get(..plain).unwrap_or_default());
            self.at += plain;
            if self.takes(b'"') {
                return Ok(string);
            }
            if self.peek() != Some(b'\\') {
                return Err(
                    self.unexpected("the end of the string (control characters are escaped)")
                );
            }
            string.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let at = self.at;
        self.at += 1;
        let character = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.code_point(at);
            }
            _ => return Err(self.unexpected("an escape of JSON")),
        };
        self.at += 1;
        Ok(character)
    }

    /// One or, for a surrogate pair, two escapes of four digits.
    fn code_point(&mut self, at: usize) -> Result<char, JsonError> {
        let first = self.hex4()?;
        let units = if (0xd800..0xdc00).contains(&first) && self.rest().starts_with("\\u") {
            self.at += 2;
            vec![first, self.hex4()?]
        } else {
            vec![first]
        };
        match char::decode_utf16(units).next() {
            Some(Ok(character)) => Ok(character),
            _ => Err(JsonError::LoneSurrogate { at }),
        }
    }

    fn hex4(&mut self) -> Result<u16, JsonError> {
        let unit = self
            .rest()
            .get(..4)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u16::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.unexpected("four hexadecimal digits"))?;
        self.at += 4;
        Ok(unit)
    }

    fn white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Steps over `byte` if it is next.
    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn unexpected(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax {
            at: self.at,
            got: match self.rest().chars().next() {
                Some(character) => format!("{character:?}"),
                None => "the end".into(),
            },
            expected,
        }
    }
}
