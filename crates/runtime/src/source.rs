//! Which chain source an agent asks: what users set of it, and what that comes to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use beacon_chain::{
    Chain, ChainIdentity, CoreChain, CoreSettings, EsploraChain, InvalidBaseUrl, RpcAuth,
};
use beacon_cohort::terms::BtcNetwork;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::{Failure, Global};
use crate::limits::Limits;
use crate::settings::{Options, SettingsError};

/// How long a command may look through a node's blocks.
pub(crate) const COMMAND_PATIENCE: Duration = Duration::from_hours(1);

/// By what the chain of a network is known.
pub(crate) fn identity(network: BtcNetwork) -> ChainIdentity {
    match network {
        BtcNetwork::Mutinynet => ChainIdentity::mutinynet(),
        other => ChainIdentity::of(other.bitcoin()),
    }
}

/// The kinds of chain sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// An Esplora server.
    Esplora,
    /// A Bitcoin Core node.
    Bitcoind,
}

/// Where the chain is asked, for commands that need no more of `run`'s options.
#[derive(Args, Clone, Debug, Default)]
pub struct SourceArgs {
    /// What is at the URL: esplora or bitcoind, whose other options are those of the configuration [default: the
    /// configuration's `chain`; beside --chain-url: esplora]
    #[arg(long, value_name = "KIND")]
    pub(crate) chain: Option<SourceKind>,
    /// Base URL of an Esplora server or a node, for the DID's network [default: the configuration's `chain_url`]
    #[arg(long, value_name = "URL")]
    pub(crate) chain_url: Option<String>,
}

impl SourceArgs {
    pub(crate) fn options(&self) -> Options {
        Options {
            chain: self.chain,
            chain_url: self.chain_url.clone(),
            ..Options::default()
        }
    }
}

/// A chain source that can be opened. It holds no secret: where the node's are, it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An Esplora server.
    Esplora {
        /// Its base URL.
        url: String,
    },
    /// A Bitcoin Core node.
    Bitcoind {
        /// Its RPC server.
        url: String,
        /// How it knows us.
        auth: RpcAuth,
        /// The first block that is looked at.
        start_height: u32,
    },
}

impl Source {
    /// What the options come to; none without a URL.
    pub(crate) fn of(
        options: &Options,
        network: BtcNetwork,
    ) -> Result<Option<Self>, SettingsError> {
        let core = [
            ("chain_cookie_file", options.chain_cookie_file.is_some()),
            ("chain_user", options.chain_user.is_some()),
            ("chain_password_file", options.chain_password_file.is_some()),
            ("chain_start_height", options.chain_start_height.is_some()),
        ];
        let needs_core = core.iter().find_map(|(name, set)| set.then_some(*name));
        let kind = match (options.chain, needs_core) {
            (None, Some(name)) => {
                return Err(SettingsError::Range {
                    name: "chain",
                    got: format!("none with {name}"),
                    expected: "bitcoind, which this option is for, or esplora",
                });
            }
            (kind, _) => kind.unwrap_or(SourceKind::Esplora),
        };
        let Some(url) = options.chain_url.clone() else {
            return Ok(None);
        };
        let source = match kind {
            SourceKind::Esplora => Self::Esplora { url },
            SourceKind::Bitcoind => Self::Bitcoind {
                url,
                auth: auth(options)?,
                start_height: start_height(options, network)?,
            },
        };
        match source.with(Duration::from_secs(1), 0, Duration::ZERO) {
            Ok(_) => Ok(Some(source)),
            Err(InvalidBaseUrl { .. }) => Err(SettingsError::Range {
                name: "chain_url",
                got: match &source {
                    Self::Esplora { url } | Self::Bitcoind { url, .. } if url.contains('@') => {
                        "one with a password".to_owned()
                    }
                    Self::Esplora { url } | Self::Bitcoind { url, .. } => format!("{url:?}"),
                },
                expected: "http:// or https:// followed by a host, such as http://127.0.0.1:3002",
            }),
        }
    }

    /// Opens it. `patience` is for what takes more than one request, such as looking through the blocks of a node.
    pub fn open(
        &self,
        limits: &Limits,
        patience: Duration,
    ) -> Result<Arc<dyn Chain>, InvalidBaseUrl> {
        let timeout = Duration::from_secs(limits.chain_timeout_s);
        self.with(timeout, limits.chain_retries, patience)
    }

    fn with(
        &self,
        timeout: Duration,
        retries: usize,
        patience: Duration,
    ) -> Result<Arc<dyn Chain>, InvalidBaseUrl> {
        Ok(match self {
            Self::Esplora { url } => Arc::new(EsploraChain::new(url, timeout, retries)?),
            Self::Bitcoind {
                url,
                auth,
                start_height,
            } => Arc::new(CoreChain::new(CoreSettings {
                url: url.clone(),
                auth: auth.clone(),
                start_height: *start_height,
                timeout,
                retries,
                patience,
            })?),
        })
    }

    /// The options that lead to it, as JSON.
    pub(crate) fn about(&self) -> Value {
        match self {
            Self::Esplora { url } => json!({ "chain": SourceKind::Esplora, "chain_url": url }),
            Self::Bitcoind {
                url,
                auth,
                start_height,
            } => {
                let mut about = json!({
                    "chain": SourceKind::Bitcoind, "chain_url": url, "chain_start_height": start_height,
                });
                match auth {
                    RpcAuth::CookieFile(path) => about["chain_cookie_file"] = json!(path),
                    RpcAuth::User {
                        name,
                        password_file,
                    } => {
                        about["chain_user"] = json!(name);
                        about["chain_password_file"] = json!(password_file);
                    }
                }
                about
            }
        }
    }
}

fn auth(options: &Options) -> Result<RpcAuth, SettingsError> {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let wrong = |got: &str| SettingsError::Range {
        name: "chain_cookie_file",
        got: got.to_owned(),
        expected: "the .cookie in the data directory of the node, or chain_user and chain_password_file, and not both",
    };
    match (
        &options.chain_cookie_file,
        &options.chain_user,
        &options.chain_password_file,
    ) {
        (Some(path), None, None) => Ok(RpcAuth::CookieFile(absolute(path))),
        (None, Some(name), Some(path)) if !name.contains([':', '\n']) => Ok(RpcAuth::User {
            name: name.clone(),
            password_file: absolute(path),
        }),
        (None, Some(_), Some(_)) => Err(wrong("a user with a colon in its name")),
        (Some(_), ..) => Err(wrong("one beside a user or a password")),
        (None, None, None) => Err(wrong("none")),
        (None, _, _) => Err(wrong(
            "none, and a user without a password or the other way round",
        )),
    }
}

/// On a private chain everything is looked at; elsewhere only the user knows where to begin.
fn start_height(options: &Options, network: BtcNetwork) -> Result<u32, SettingsError> {
    match options.chain_start_height {
        Some(height) => Ok(height),
        None if network == BtcNetwork::Regtest => Ok(0),
        None => Err(SettingsError::Range {
            name: "chain_start_height",
            got: format!("none on {network}"),
            expected: "the height of a block before the first payment to any address of this agent's cohorts: for a new agent, that of the last block",
        }),
    }
}

/// The chain source of the command line, the environment or the configuration.
pub(crate) fn open(
    global: &Global,
    agent: &str,
    args: &SourceArgs,
    patience: Duration,
) -> Result<Arc<dyn Chain>, Failure> {
    open_with(global, agent, args.options(), patience)
}

/// The options of a running agent, from what it says of itself.
pub(crate) fn options_of(about: &Value) -> Options {
    let text = |name: &str| about[name].as_str().map(str::to_owned);
    let height = about["chain_start_height"].as_u64();
    Options {
        chain: SourceKind::deserialize(&about["chain"]).ok(),
        chain_url: text("chain_url"),
        chain_cookie_file: text("chain_cookie_file").map(PathBuf::from),
        chain_user: text("chain_user"),
        chain_password_file: text("chain_password_file").map(PathBuf::from),
        chain_start_height: height.and_then(|height| u32::try_from(height).ok()),
        ..Options::default()
    }
}

/// The chain source of these options, over those of the environment and the configuration.
pub(crate) fn open_with(
    global: &Global,
    agent: &str,
    options: Options,
    patience: Duration,
) -> Result<Arc<dyn Chain>, Failure> {
    let config = global.config(agent, options, &global.data_dir(agent)?)?;
    let source = config.chain.as_ref().ok_or_else(|| {
        Failure::usage(anyhow!(
            "got no chain to look for signals on, expected an Esplora server or a Bitcoin Core node: give --chain-url, or set chain_url in the configuration"
        ))
    })?;
    source
        .open(&config.limits, patience)
        .map_err(Failure::usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Options {
        Options {
            network: Some(BtcNetwork::Signet),
            chain: Some(SourceKind::Bitcoind),
            chain_url: Some("http://127.0.0.1:38332".to_owned()),
            chain_cookie_file: Some("/node/.cookie".into()),
            chain_start_height: Some(7),
            ..Options::default()
        }
    }

    fn source(options: Options) -> Source {
        options.resolve().unwrap().chain.unwrap()
    }

    #[test]
    fn an_agent_says_of_its_node_what_leads_to_it_again() {
        let with_user = Options {
            chain_cookie_file: None,
            chain_user: Some("beacon".to_owned()),
            chain_password_file: Some("/etc/password".into()),
            ..node()
        };
        let esplora = Options {
            chain_url: Some("http://127.0.0.1:3002".to_owned()),
            ..Options::default()
        };
        for options in [node(), with_user, esplora] {
            let network = options.network;
            let source = source(options);
            let again = Options {
                network,
                ..options_of(&source.about())
            };
            assert_eq!(again.resolve().unwrap().chain.unwrap(), source);
        }
    }

    #[test]
    fn a_private_chain_is_looked_at_from_its_first_block_on() {
        let regtest = Options {
            network: None,
            chain_start_height: None,
            ..node()
        };
        let Source::Bitcoind { start_height, .. } = source(regtest) else {
            panic!("expected a node");
        };
        assert_eq!(start_height, 0);
    }

    #[test]
    fn a_node_needs_one_way_in_and_a_height_to_begin_at() {
        let cases = [
            (
                Options {
                    chain_start_height: None,
                    ..node()
                },
                "chain_start_height: got none on signet, expected the height of a block before",
            ),
            (
                Options {
                    chain_cookie_file: None,
                    ..node()
                },
                "chain_cookie_file: got none, expected the .cookie",
            ),
            (
                Options {
                    chain_user: Some("beacon".to_owned()),
                    ..node()
                },
                "chain_cookie_file: got one beside a user",
            ),
            (
                Options {
                    chain_cookie_file: None,
                    chain_user: Some("beacon".to_owned()),
                    ..node()
                },
                "a user without a password",
            ),
            (
                Options {
                    chain_cookie_file: None,
                    chain_user: Some("a:b".to_owned()),
                    chain_password_file: Some("/etc/password".into()),
                    ..node()
                },
                "a user with a colon",
            ),
            (
                Options {
                    chain: None,
                    ..node()
                },
                "chain: got none with chain_cookie_file, expected bitcoind",
            ),
            (
                Options {
                    chain_url: Some("http://beacon:secret@127.0.0.1:38332".to_owned()),
                    ..node()
                },
                "chain_url: got one with a password, expected http://",
            ),
        ];
        for (options, wording) in cases {
            let error = options.resolve().unwrap_err().to_string();
            assert!(error.contains(wording), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
