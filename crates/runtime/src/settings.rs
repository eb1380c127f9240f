//! What a user sets, in a file, in the environment or by flags, and what it comes to.
//!
//! Flags win over the environment, the environment over the file, the file over defaults. Raw options become a
//! [`Config`] in one place, [`Options::resolve`], where every value is checked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use beacon_cohort::coordinator::FeeRate;
use beacon_cohort::terms::BtcNetwork;
use beacon_didcomm::Endpoint;
use clap::Args;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::agent::Agent;
use crate::limits::{LimitOptions, Limits};
use crate::source::{Source, SourceKind};
use crate::transport::TransportConfig;

/// Blocks within which a transaction should be mined, unless something else is said: an hour.
pub(crate) const FEE_TARGET_BLOCKS: u16 = 6;

/// A fee rate as users write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeeSetting {
    /// `auto`: what the chain source estimates.
    Auto,
    /// sat/vB.
    Fixed(u64),
}

impl FromStr for FeeSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse()
            .map(Self::Fixed)
            .map_err(|_| format!("got {text:?}, expected a whole number of sat/vB, or auto"))
    }
}

impl Serialize for FeeSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(sat_vb) => serializer.serialize_u64(*sat_vb),
        }
    }
}

impl<'de> Deserialize<'de> for FeeSetting {
    /// The configuration library makes text of a number where text is asked for.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// The options that both roles have. Names in the file are the flags' with underscores.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Address to listen on for WebSockets, such as 127.0.0.1:8765. Without it the agent only dials
    #[arg(long, value_name = "IP:PORT")]
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "socket_address"
    )]
    pub listen: Option<SocketAddr>,
    /// URL under which peers reach this agent; part of its DID [default: ws:// and the listen address]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<Endpoint>,
    /// Bitcoin network: regtest, signet, mutinynet, testnet4, testnet3, mainnet [default: regtest]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<BtcNetwork>,
    /// Without it mainnet is refused, and the refusal says what is at risk [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_mainnet_risk: Option<bool>,
    /// Where the chain is asked: an Esplora server, or a Bitcoin Core node [default: esplora]
    #[arg(long, value_name = "KIND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<SourceKind>,
    /// Base URL of an Esplora server, such as `http://127.0.0.1:3002`, or of a node, such as `http://127.0.0.1:8332`
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_url: Option<String>,
    /// The node's `.cookie`, in its data directory (bitcoind)
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_cookie_file: Option<PathBuf>,
    /// User of the node, instead of a cookie (bitcoind)
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_user: Option<String>,
    /// File with that user's password in its first line (bitcoind)
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_password_file: Option<PathBuf>,
    /// First block to look at; nothing of this agent's cohorts may be older (bitcoind) [default: 0 on regtest]
    #[arg(long, value_name = "HEIGHT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_start_height: Option<u32>,
    /// Milliseconds between two looks at the chain [default: 1000 on regtest, else 15000]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_poll_ms: Option<u64>,
    /// Dial peers at private and loopback addresses [default: true on regtest, else false]
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_private: Option<bool>,
    /// A name for this agent, shown to its peers
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Fee rate of signals in sat/vB, bounded by each cohort's terms, or auto: what the chain source estimates
    /// (coordinator) [default: auto]
    #[arg(long, value_name = "SAT/VB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_rate: Option<FeeSetting>,
    /// Blocks within which a transaction should be mined: what fee rates are estimated for [default: 6]
    #[arg(long, value_name = "BLOCKS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_target_blocks: Option<u16>,
    /// Join every advertised cohort without asking (participant) [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_join: Option<bool>,
    /// Join by --auto-join also where not only all members together can spend from the beacon (participant) [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_script_tree: Option<bool>,
    /// Sign without asking whatever passes every check (participant) [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_sign: Option<bool>,
    /// DID to answer for in cohorts joined by --auto-join; may be given several times (participant)
    #[arg(long = "did", value_name = "DID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dids: Option<Vec<String>>,
    /// In the file: the table `limits`.
    #[command(flatten)]
    pub limits: LimitOptions,
    // Flags of every command (`cli::Global`), so in the file only.
    /// File with the passphrase of the keys.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// Keys without a passphrase.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unencrypted_keys: Option<bool>,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read, or a value in it is not what it should be.
    #[error("configuration {path}: {fault}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// Mainnet was chosen, and the risk not accepted.
    #[error(
        "network: got mainnet, expected a test network, or accept_mainnet_risk = true (--accept-mainnet-risk) beside it: {MAINNET_RISK}"
    )]
    Mainnet,
    /// A value is out of range.
    #[error("{name}: got {got}, expected {expected}")]
    Range {
        /// Its name.
        name: &'static str,
        /// Its value.
        got: String,
        /// What would do, and what to do.
        expected: &'static str,
    },
}

/// What is at risk on mainnet.
pub(crate) const MAINNET_RISK: &str = "on mainnet real bitcoin is at risk: what a cohort's address holds can be spent only with the \
signatures of all members, so that one lost seed, or one member that is gone for good, leaves it there for ever, unless the terms \
have a script tree; the cohort's DIDs can be updated only as long as all members sign, and can be resolved only as long as each \
keeps its proofs; this software is young and nobody has audited it: send no more than you can lose";

/// What the options come to.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own that the user answers with yes or no"
)]
pub struct Config {
    /// What the agent's DIDs announce.
    pub endpoint: Endpoint,
    /// The Bitcoin network.
    pub network: BtcNetwork,
    /// Where the chain is asked; needed to run.
    pub chain: Option<Source>,
    /// Between two looks at the chain.
    pub chain_poll: Duration,
    /// Whether private and loopback addresses are dialled.
    pub allow_private: bool,
    /// The agent's name.
    pub label: Option<String>,
    /// Sockets.
    pub transport: TransportConfig,
    /// Everything that is bounded.
    pub limits: Limits,
    /// What signals pay.
    pub fee_rate: FeeRate,
    /// What fee rates are estimated for, in blocks.
    pub fee_target_blocks: u16,
    /// DIDs for cohorts that are joined without asking; `None`: ask.
    pub auto_join: Option<Vec<String>>,
    /// Whether that holds for cohorts with a script tree.
    pub accept_script_tree: bool,
    /// Sign without asking.
    pub auto_sign: bool,
    /// File with the passphrase of the keys.
    pub passphrase_file: Option<PathBuf>,
    /// Whether new keys are made without a passphrase.
    pub unencrypted_keys: bool,
}

impl Config {
    /// The same, if it is enough to run: nothing of the agent's home is touched before that is known.
    pub fn to_run<A: Agent>(self) -> Result<Self, SettingsError> {
        check_endpoint::<A>(&self.endpoint)?;
        if self.chain.is_some() {
            return Ok(self);
        }
        Err(SettingsError::Range {
            name: "chain_url",
            got: "none".to_owned(),
            expected: "an Esplora server, such as --chain-url http://127.0.0.1:3002 (beacon-regtest serves one), or a Bitcoin Core node with --chain bitcoind",
        })
    }
}

impl Config {
    /// Whether keys may be without a passphrase where it was asked for.
    pub(crate) fn unencrypted_keys(&self, asked: bool) -> Result<bool, SettingsError> {
        let asked = asked || self.unencrypted_keys;
        if asked && self.network == BtcNetwork::Mainnet {
            return Err(SettingsError::Range {
                name: "unencrypted_keys",
                got: "true on mainnet".to_owned(),
                expected: "keys under a passphrase, in a --passphrase-file where nobody can type it: whoever reads the disk would have the coins",
            });
        }
        Ok(asked)
    }
}

/// A role that others must find needs an endpoint that can be dialled.
pub(crate) fn check_endpoint<A: Agent>(endpoint: &Endpoint) -> Result<(), SettingsError> {
    if A::MUST_BE_REACHABLE && *endpoint == Endpoint::Queue {
        return Err(SettingsError::Range {
            name: "listen",
            got: "none".to_owned(),
            expected: "an address such as --listen 127.0.0.1:8765, or a --public-url: it is part of the DID",
        });
    }
    Ok(())
}

impl Options {
    /// These options over those of the environment, and these over those of the file, which may be missing unless it was
    /// named.
    pub fn over(self, environment: &Self, path: &Path, named: bool) -> Result<Self, SettingsError> {
        let fault = |fault: config::ConfigError| SettingsError::File {
            path: path.to_owned(),
            fault: format!(
                "{}: see --help of run for the names and values",
                one_line(&fault)
            ),
        };
        let file = config::File::from(path).format(config::FileFormat::Toml);
        let file = config::Config::builder().add_source(file.required(named));
        let file = file.build().and_then(config::Config::try_deserialize);
        let file = file.map_err(fault)?;
        let below = environment.upon(file).map_err(fault)?;
        self.upon(below).map_err(fault)
    }

    /// These options, and those below where there are none.
    fn upon(&self, mut below: Self) -> Result<Self, config::ConfigError> {
        if self.chain_url.is_some() {
            // What is at another URL has to be said again: a node's password is for no other server.
            below.chain = None;
        }
        config::Config::builder()
            .add_source(config::Config::try_from(&below)?)
            .add_source(config::Config::try_from(self)?)
            .build()?
            .try_deserialize()
    }

    /// Checks every value and fills in the defaults.
    pub fn resolve(self) -> Result<Config, SettingsError> {
        let network = self.network.unwrap_or(BtcNetwork::Regtest);
        if network == BtcNetwork::Mainnet && self.accept_mainnet_risk != Some(true) {
            return Err(SettingsError::Mainnet);
        }
        let regtest = network == BtcNetwork::Regtest;
        let chain = Source::of(&self, network)?;
        let limits = self.limits.resolve()?;
        let transport = TransportConfig {
            listen: self.listen,
            ..limits.transport()
        };
        let poll = within(
            "chain_poll_ms",
            self.chain_poll_ms,
            if regtest { 1_000 } else { 15_000 },
            50..=3_600_000,
            "50 to 3600000 milliseconds",
        )?;
        let label = self.label;
        if let Some(label) = label.as_ref().filter(|label| label.len() > 256) {
            return Err(SettingsError::Range {
                name: "label",
                got: format!("{} bytes", label.len()),
                expected: "at most 256 bytes",
            });
        }
        let dids = self.dids.unwrap_or_default();
        let fee_target_blocks = within(
            "fee_target_blocks",
            self.fee_target_blocks,
            FEE_TARGET_BLOCKS,
            1..=1_008,
            "1 to 1008 blocks",
        )?;
        let auto_join = self.auto_join.unwrap_or(false);
        if auto_join && dids.is_empty() {
            return Err(SettingsError::Range {
                name: "auto_join",
                got: "true without a DID".to_owned(),
                expected: "at least one --did to answer for",
            });
        }
        Ok(Config {
            endpoint: endpoint(self.listen, self.public_url)?,
            network,
            chain,
            chain_poll: Duration::from_millis(poll),
            allow_private: self.allow_private.unwrap_or(regtest),
            label,
            transport,
            limits,
            fee_rate: fee_rate(self.fee_rate, fee_target_blocks)?,
            fee_target_blocks,
            auto_join: auto_join.then_some(dids),
            accept_script_tree: self.accept_script_tree.unwrap_or(false),
            auto_sign: self.auto_sign.unwrap_or(false),
            passphrase_file: self.passphrase_file,
            unencrypted_keys: self.unencrypted_keys.unwrap_or(false),
        })
    }
}

/// The configuration library's words on one line. Of a syntax error the drawing of its place is left out: line and
/// column are named.
fn one_line(fault: &config::ConfigError) -> String {
    let text = match fault {
        config::ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    };
    let drawn = |line: &&str| {
        line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')
            .starts_with('|')
    };
    let said: Vec<_> = text.lines().filter(|line| !drawn(line)).collect();
    said.join(": ")
}

/// As the standard library's, which does not name what it got.
fn socket_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| {
        D::Error::custom(format_args!(
            "got {text:?}, expected an address with a port, such as 127.0.0.1:8765,"
        ))
    })
}

/// What signals pay.
fn fee_rate(setting: Option<FeeSetting>, blocks: u16) -> Result<FeeRate, SettingsError> {
    match setting.unwrap_or(FeeSetting::Auto) {
        FeeSetting::Auto => Ok(FeeRate::Estimated { blocks }),
        FeeSetting::Fixed(sat_vb @ 1..=100_000) => Ok(FeeRate::Fixed(sat_vb)),
        FeeSetting::Fixed(sat_vb) => Err(SettingsError::Range {
            name: "fee_rate",
            got: sat_vb.to_string(),
            expected: "1 to 100000 sat/vB, or auto",
        }),
    }
}

/// What a DID announces: the public URL, else the listen address if others can use it, else nothing to dial.
fn endpoint(
    listen: Option<SocketAddr>,
    public_url: Option<Endpoint>,
) -> Result<Endpoint, SettingsError> {
    match (public_url, listen) {
        (Some(url), _) => Ok(url),
        (None, None) => Ok(Endpoint::Queue),
        (None, Some(address)) if address.port() != 0 && !address.ip().is_unspecified() => {
            let url = format!("ws://{address}");
            url.parse().map_err(|_| SettingsError::Range {
                name: "listen",
                got: address.to_string(),
                expected: "an address that makes a URL; give --public-url",
            })
        }
        (None, Some(address)) => Err(SettingsError::Range {
            name: "listen",
            got: address.to_string(),
            expected: "a --public-url beside it: the URL is part of the DID, and nobody can dial this address",
        }),
    }
}

fn within<T: PartialOrd + std::fmt::Display>(
    name: &'static str,
    value: Option<T>,
    default: T,
    range: std::ops::RangeInclusive<T>,
    expected: &'static str,
) -> Result<T, SettingsError> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        return Ok(value);
    }
    Err(SettingsError::Range {
        name,
        got: value.to_string(),
        expected,
    })
}

#[cfg(test)]
mod tests;
