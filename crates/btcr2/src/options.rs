//! Resolution options: which version of a document is wanted, how deep its signals must be buried, and what the holder hands
//! over ("Resolution Options" of the specification).

use serde_json::Value;

use crate::error::{Error, ErrorCode};
use crate::json::{self, JsonError};
use crate::sidecar::{Sidecar, SidecarError};
use crate::time::{ParseTimestampError, Timestamp};

/// Which version of a DID document is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Select {
    /// The newest.
    #[default]
    Newest,
    /// The one with this number; the initial document is version 1.
    Id(u64),
    /// The one that was the newest at this moment, the moment itself included.
    Time(Timestamp),
}

/// What resolution is to look for, and what it has to go by.
///
/// ```
/// use beacon_btcr2::{ResolutionOptions, Select};
///
/// let options = ResolutionOptions::from_json(br#"{ "versionId": "2", "sidecar": { "updates": [] } }"#)?;
/// assert_eq!((options.select(), options.min_conf()), (Select::Id(2), 6));
/// # Ok::<(), beacon_btcr2::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ResolutionOptions {
    select: Select,
    min_conf: u32,
    /// What the holder of the DID handed over.
    pub sidecar: Sidecar,
}

/// What is wrong with resolution options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The text is not JSON, or more of it than is read.
    #[error("resolution options: {0}")]
    Json(#[from] JsonError),
    /// They are no object.
    #[error("resolution options: got {got}, expected an object")]
    NoObject {
        /// The JSON type that they are.
        got: &'static str,
    },
    /// An option is not what it should be.
    #[error("/{name}: got {got}, expected {expected}")]
    Kind {
        /// Its name.
        name: &'static str,
        /// The JSON type or the text that it has.
        got: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The time cannot be read.
    #[error("/versionTime: got {got}: {why}")]
    Time {
        /// What is there, shortened.
        got: String,
        /// What it should be.
        why: ParseTimestampError,
    },
    /// Two options that exclude each other.
    #[error("got both versionId and versionTime, expected at most one of them")]
    Both,
    /// The sidecar data.
    #[error("/sidecar{0}")]
    Sidecar(#[from] SidecarError),
}

impl Default for ResolutionOptions {
    /// The newest version, six confirmations, and nothing handed over.
    fn default() -> Self {
        Self {
            select: Select::Newest,
            min_conf: Self::DEFAULT_MIN_CONF,
            sidecar: Sidecar::default(),
        }
    }
}

impl ResolutionOptions {
    /// Confirmations that a signal needs where the options say nothing.
    pub const DEFAULT_MIN_CONF: u32 = 6;

    /// Reads the JSON form: `versionId`, `versionTime`, `minConf` and `sidecar`, each of which may be absent. Other members
    /// are not looked at. Every error has the code `INVALID_OPTIONS`.
    pub fn from_json(text: &[u8]) -> Result<Self, Error> {
        let value = json::parse(text, &Sidecar::LIMITS).map_err(OptionsError::Json);
        value
            .and_then(Self::read)
            .map_err(Error::of(ErrorCode::InvalidOptions))
    }

    /// The same, from a JSON value that was parsed within [`Sidecar::LIMITS`].
    pub fn from_value(value: Value) -> Result<Self, Error> {
        Self::read(value).map_err(Error::of(ErrorCode::InvalidOptions))
    }

    fn read(value: Value) -> Result<Self, OptionsError> {
        let Value::Object(mut members) = value else {
            return Err(OptionsError::NoObject {
                got: json::kind(&value),
            });
        };
        let mut options = Self::default();
        if let Some(value) = members.get("versionId") {
            let text = value
                .as_str()
                .ok_or_else(|| wrong("versionId", value, VERSION_ID))?;
            options.read_version_id(text)?;
        }
        if let Some(value) = members.get("versionTime") {
            let text = value
                .as_str()
                .ok_or_else(|| wrong("versionTime", value, "a text"))?;
            options.read_version_time(text)?;
        }
        if let Some(value) = members.get("minConf") {
            let number = value
                .as_u64()
                .ok_or_else(|| wrong("minConf", value, MIN_CONF))?;
            options.read_min_conf(number)?;
        }
        if let Some(value) = members.remove("sidecar") {
            options.sidecar = Sidecar::from_value(value)?;
        }
        Ok(options)
    }

    /// Asks for a version by its number, in decimal digits.
    pub fn set_version_id(&mut self, text: &str) -> Result<(), Error> {
        self.read_version_id(text)
            .map_err(Error::of(ErrorCode::InvalidOptions))
    }

    /// Asks for the version that was the newest at a moment, given as an XML date and time.
    pub fn set_version_time(&mut self, text: &str) -> Result<(), Error> {
        self.read_version_time(text)
            .map_err(Error::of(ErrorCode::InvalidOptions))
    }

    /// Sets how many confirmations a signal needs, at least one.
    pub fn set_min_conf(&mut self, min_conf: u64) -> Result<(), Error> {
        self.read_min_conf(min_conf)
            .map_err(Error::of(ErrorCode::InvalidOptions))
    }

    /// Which version is wanted.
    pub fn select(&self) -> Select {
        self.select
    }

    /// How many confirmations a signal needs.
    pub fn min_conf(&self) -> u32 {
        self.min_conf
    }

    fn read_version_id(&mut self, text: &str) -> Result<(), OptionsError> {
        let is_number = !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        let number = text.parse().ok().filter(|_| is_number);
        let number = number.ok_or_else(|| OptionsError::Kind {
            name: "versionId",
            got: json::shorten(&text.into()),
            expected: VERSION_ID,
        })?;
        self.choose(Select::Id(number))
    }

    fn read_version_time(&mut self, text: &str) -> Result<(), OptionsError> {
        let time = Timestamp::parse(text).map_err(|why| OptionsError::Time {
            got: json::shorten(&text.into()),
            why,
        })?;
        self.choose(Select::Time(time))
    }

    fn choose(&mut self, select: Select) -> Result<(), OptionsError> {
        match (self.select, select) {
            (Select::Id(_), Select::Time(_)) | (Select::Time(_), Select::Id(_)) => {
                Err(OptionsError::Both)
            }
            _ => {
                self.select = select;
                Ok(())
            }
        }
    }

    fn read_min_conf(&mut self, min_conf: u64) -> Result<(), OptionsError> {
        if min_conf == 0 {
            return Err(OptionsError::Kind {
                name: "minConf",
                got: "0".into(),
                expected: MIN_CONF,
            });
        }
        // No chain is as long as that: asking for more is asking for what no signal has.
        self.min_conf = u32::try_from(min_conf).unwrap_or(u32::MAX);
        Ok(())
    }
}

const VERSION_ID: &str =
    "a text of decimal digits, without sign or leading zeros, of a number below 2^64";
const MIN_CONF: &str = "a whole number of at least 1";

fn wrong(name: &'static str, got: &Value, expected: &'static str) -> OptionsError {
    OptionsError::Kind {
        name,
        got: json::shorten(got),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<ResolutionOptions, Error> {
        ResolutionOptions::from_json(value.to_string().as_bytes())
    }

    fn refused(value: &Value) -> String {
        let error = read(value).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidOptions);
        error.problem.to_string()
    }

    #[test]
    fn what_is_absent_has_a_default() {
        let options = read(&json!({ "accept": "application/did", "other": [1] })).unwrap();
        assert_eq!(options, ResolutionOptions::default());
        assert_eq!((options.select(), options.min_conf()), (Select::Newest, 6));
    }

    #[test]
    fn each_option_is_read() {
        let options = read(&json!({ "versionId": "12", "minConf": 1 })).unwrap();
        assert_eq!((options.select(), options.min_conf()), (Select::Id(12), 1));
        let options = read(&json!({ "versionTime": "2026-09-16T15:20:27Z", "sidecar": {} }));
        assert_eq!(
            options.unwrap().select(),
            Select::Time(Timestamp::parse("2026-09-16T15:20:27Z").unwrap())
        );
        assert_eq!(
            read(&json!({ "minConf": 1e12 })).unwrap().min_conf(),
            u32::MAX
        );
        assert_eq!(
            read(&json!({ "versionId": "0" })).unwrap().select(),
            Select::Id(0)
        );
    }

    #[test]
    fn a_version_is_asked_for_by_number_or_by_time() {
        let both = json!({ "versionId": "2", "versionTime": "2026-09-16T15:20:27Z" });
        assert!(refused(&both).contains("both versionId and versionTime"));
        let mut options = read(&json!({ "versionId": "2" })).unwrap();
        options.set_version_id("3").unwrap();
        assert_eq!(options.select(), Select::Id(3));
        assert!(options.set_version_time("2026-09-16T15:20:27Z").is_err());
    }

    #[test]
    fn malformed_options_are_refused_with_their_place() {
        for (options, place) in [
            (json!([]), "resolution options: got an array"),
            (json!({ "versionId": 2 }), "/versionId"),
            (json!({ "versionId": "" }), "/versionId"),
            (json!({ "versionId": "-1" }), "/versionId"),
            (json!({ "versionId": "+1" }), "/versionId"),
            (json!({ "versionId": "01" }), "/versionId"),
            (json!({ "versionId": "1.5" }), "/versionId"),
            (json!({ "versionId": "２" }), "/versionId"),
            (json!({ "versionId": "18446744073709551616" }), "/versionId"),
            (json!({ "versionId": null }), "/versionId"),
            (json!({ "versionTime": 1_789_570_888 }), "/versionTime"),
            (
                json!({ "versionTime": "yesterday" }),
                "/versionTime: got \"yesterday\": expected a date",
            ),
            (
                json!({ "versionTime": "2026-02-30T00:00:00Z" }),
                "/versionTime",
            ),
            (json!({ "minConf": 0 }), "/minConf"),
            (json!({ "minConf": -1 }), "/minConf"),
            (json!({ "minConf": 1.5 }), "/minConf"),
            (json!({ "minConf": "6" }), "/minConf"),
            (json!({ "sidecar": null }), "/sidecar"),
            (json!({ "sidecar": { "updates": {} } }), "/sidecar/updates"),
            (
                json!({ "sidecar": { "updates": [{}, 1] } }),
                "/sidecar/updates/1",
            ),
        ] {
            let problem = refused(&options);
            assert!(problem.starts_with(place), "{options}: {problem}");
        }
    }

    #[test]
    fn a_text_that_is_not_json_is_refused() {
        for text in [&b""[..], b"{", b"\xff", br#"{"minConf":1,"minConf":2}"#] {
            let error = ResolutionOptions::from_json(text).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidOptions);
            assert!(
                error
                    .problem
                    .to_string()
                    .starts_with("resolution options: ")
            );
        }
    }
}
