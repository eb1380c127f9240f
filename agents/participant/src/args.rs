//! The command line of `beacon-participant`.

use std::path::PathBuf;

use beacon_runtime::cli::{DidArgs, EventsArgs, Global, RunArgs};
use beacon_runtime::dids::commands::{DidCommand, SidecarCommand};
use beacon_runtime::dids::updates::ChainArgs;
use beacon_runtime::keys::commands::KeysCommand;
use beacon_runtime::psbt::ExportArgs;
use beacon_runtime::resolve::command::ResolveArgs;
use beacon_runtime::resolve::server::ServeArgs;
use beacon_runtime::script_tree::{FallbackCommand, RecoveryCommand};
use clap::{ArgGroup, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  beacon-participant run --chain-url http://127.0.0.1:3002 --auto-sign
  beacon-participant subscribe did:peer:2.Vz6Mk…
  beacon-participant did create --new
  beacon-participant cohorts
  beacon-participant join 7c0f3a52-2a0e-4f0b-9b8e-0f6d2c1f7a11 --did did:btcr2:k1q…
  beacon-participant request-update 7c0f3a52-2a0e-4f0b-9b8e-0f6d2c1f7a11 --did did:btcr2:k1q… --patch patch.json
  beacon-participant sidecar export --did did:btcr2:k1q… --out alice.json
  beacon-participant keys export --out participant.age
  beacon-participant resolve did:btcr2:k1q… --sidecar alice.json
  beacon-participant proof verify --did did:btcr2:k1q… --proof proof.json --root 9a…07

The options above and those of `run` can be set in the environment as BEACON_PARTICIPANT_<NAME>, and those of
`run` in config.toml in the data directory; every command goes by them. BEACON_PARTICIPANT_PASSPHRASE can hold the
passphrase of the keys; a file is better (--passphrase-file). RUST_LOG chooses what is logged.

Exit codes: 0 done, or valid; 1 refused, failed or invalid; 2 command line, configuration or unreadable file;
3 the agent is not running; 4 the passphrase is missing or wrong.";

const RESOLVE_EXAMPLES: &str = "\
Examples:
  beacon-participant resolve did:btcr2:k1q… --chain-url http://127.0.0.1:3002
  beacon-participant resolve did:btcr2:k1q… --sidecar alice.json --min-conf 1
  beacon-participant resolve did:btcr2:x1q… --options options.json --signals signals.json --cas documents/
  beacon-participant resolve did:btcr2:k1q… --sidecar alice.json --version-time 2026-01-31T23:59:59Z
  beacon-participant resolve did:peer:2.Vz6Mk…

Prints a DID resolution result in any case; without a document it has didResolutionMetadata.error, and the exit code is 1.
It is 2 when a file cannot be read, or no chain and no signals are named. Options and files are for did:btcr2.";

const SERVE_EXAMPLES: &str = "\
Examples:
  beacon-participant resolver serve --chain-url http://127.0.0.1:3002 --network regtest
  beacon-participant resolver serve --listen 0.0.0.0:8080 --chain-url https://mutinynet.com/api --cas documents/

  curl http://127.0.0.1:8080/1.0/identifiers/did:btcr2:k1q…
  curl 'http://127.0.0.1:8080/1.0/identifiers/did:btcr2:k1q…?versionId=2&minConf=1'
  curl http://127.0.0.1:8080/1.0/identifiers/did:btcr2:k1q… --data @options.json -H 'Accept: application/did'

Paths: GET and POST /1.0/identifiers/{did}, GET /1.0/properties, /1.0/methods, /health";

const SIGNER_EXAMPLES: &str = "\
Examples:
  beacon-participant signer 7c0f3a52-2a0e-4f0b-9b8e-0f6d2c1f7a11 --by outside
  beacon-participant signer 7c0f3a52-2a0e-4f0b-9b8e-0f6d2c1f7a11 --by agent

A signer outside needs the member's key: its path below the agent's seed is in the exported PSBT and in `keys list`.
This agent goes on to check every signal, and to sign with the same key that nonces and partial signatures are its own.
Choose before a session starts; `join --outside-signer` does it at once.";

const PSBT_EXAMPLES: &str = "\
Examples:
  beacon-participant session export-psbt 641a359f-29f4-4c6b-98ca-c846aaf615e2 --out session.psbt
  beacon-participant session export-psbt 641a359f-29f4-4c6b-98ca-c846aaf615e2 --from-coordinator --out session.psbt
  beacon-participant session import-psbt session.psbt

A session with an outside signer: export, let it add its public nonces, import; when the session says
`waiting-for-outside-partials`, export with --from-coordinator, let it add its partial signatures, import.";

/// Takes part in beacon cohorts: subscribes to coordinators, joins, submits updates, and co-signs what it has checked.
#[derive(Debug, Parser)]
#[command(name = "beacon-participant", version, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent until it is told to stop (SIGTERM, Ctrl-C)
    Run(RunArgs),
    /// Show the DIDs under which coordinators know this agent; make and list did:btcr2 identifiers
    #[command(args_conflicts_with_subcommands = true)]
    Did {
        #[command(flatten)]
        args: DidArgs,
        #[command(subcommand)]
        command: Option<Box<DidCommand>>,
    },
    /// Hear of a coordinator's cohorts
    Subscribe {
        /// Its DID, or an invitation to it
        coordinator: String,
        /// Only cohorts on this network; may be given several times
        #[arg(long)]
        network: Vec<String>,
        /// A name for its operator's lists
        #[arg(long)]
        label: Option<String>,
    },
    /// Hear no more of a coordinator's cohorts
    Unsubscribe {
        /// Its DID
        coordinator: String,
    },
    /// List the cohorts that were advertised or joined
    Cohorts,
    /// Join a cohort, or answer for further DIDs in one that was joined
    Join(JoinArgs),
    /// Leave a cohort that is not set yet
    Leave {
        #[command(flatten)]
        cohort: CohortArg,
    },
    /// Announce an update of a DID in the next signal
    #[command(group = ArgGroup::new("update").required(true).args(["patch", "update_hash"]))]
    RequestUpdate {
        #[command(flatten)]
        cohort: CohortArg,
        /// The DID [default with --update-hash: the only one that was registered]
        #[arg(long)]
        did: Option<String>,
        /// What changes in the DID's newest document, as JSON Patch (RFC 6902): the update is made, signed and kept
        #[arg(
            long,
            value_name = "FILE",
            requires = "did",
            conflicts_with = "version_id"
        )]
        patch: Option<PathBuf>,
        #[command(flatten)]
        chain: ChainArgs,
        /// SHA-256 of the canonical form of an update that was signed elsewhere, 64 hex digits
        #[arg(long, value_name = "HEX", conflicts_with_all = ["min_conf", "chain", "chain_url"])]
        update_hash: Option<String>,
        /// The update's targetVersionId, at least 2. Without it, no other update of the DID is announced before this one is
        /// buried
        #[arg(long, value_name = "N")]
        version_id: Option<u64>,
    },
    /// List signing sessions: under way, signed, over
    Sessions,
    /// Show a session as a PSBT, and take what a signer outside of this agent has added to one
    #[command(subcommand)]
    Session(SessionCommand),
    /// Choose who signs in a cohort: this agent, or a signer outside of it
    #[command(after_help = SIGNER_EXAMPLES)]
    Signer {
        #[command(flatten)]
        cohort: CohortArg,
        /// Who makes nonces and partial signatures
        #[arg(long, value_name = "WHO", value_parser = ["agent", "outside"])]
        by: String,
    },
    /// Sign in a session, if every check holds
    Approve {
        /// The session's id
        session_id: String,
    },
    /// Do not sign in a session
    Decline {
        /// The session's id
        session_id: String,
        /// Told to the coordinator
        #[arg(long, default_value = "")]
        comment: String,
    },
    /// Export what relying parties need to resolve a DID
    #[command(subcommand)]
    Sidecar(SidecarCommand),
    /// Check evidence that a coordinator wrote against a member
    #[command(subcommand)]
    Evidence(EvidenceCommand),
    /// Take back what was paid to a cohort, with the recovery key that its terms name
    #[command(subcommand)]
    Recovery(RecoveryCommand),
    /// Spend a cohort's money with as many members as its terms want, without the others
    #[command(subcommand)]
    Fallback(FallbackCommand),
    /// Show what the agent is doing
    Status,
    /// Resolve a DID and print its resolution result as JSON
    #[command(after_help = RESOLVE_EXAMPLES)]
    Resolve(ResolveArgs),
    /// Resolve did:btcr2 for others, over HTTP
    #[command(subcommand)]
    Resolver(ResolverCommand),
    /// Show and lift what follows from a restored old state
    #[command(subcommand)]
    Rollback(RollbackCommand),
    /// Export, fetch and verify proofs
    #[command(subcommand)]
    Proof(ProofCommand),
    /// Pack, unpack and send DIDComm messages by hand
    #[command(subcommand)]
    Didcomm(DidcommCommand),
    /// Protect, list, export and import the agent's keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Print the log of events, and follow it
    Events(EventsArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProofCommand {
    /// Check a proof file in the specification's JSON form, offline
    Verify {
        /// The DID
        #[arg(long)]
        did: String,
        /// The file
        #[arg(long, value_name = "FILE")]
        proof: PathBuf,
        /// Root of the tree, 64 hex digits [default: the proof's own]
        #[arg(long, value_name = "HEX")]
        root: Option<String>,
        /// Leaf value, 64 hex digits, for a proof without nonce and updateId
        #[arg(long, value_name = "HEX")]
        leaf: Option<String>,
    },
    /// Have all proofs of a cohort sent again, and complete those that lack an update
    Fetch {
        #[command(flatten)]
        cohort: CohortArg,
        /// SHA-256 of an update that the log may have lost; may be given several times
        #[arg(long, value_name = "HEX")]
        update_hash: Vec<String>,
    },
    /// Write the complete proof of a DID in a signal that was signed here
    Export {
        #[command(flatten)]
        cohort: CohortArg,
        /// The DID [default: the only one that was registered]
        #[arg(long)]
        did: Option<String>,
        /// The signal's transaction id [default: the newest]
        #[arg(long)]
        txid: Option<String>,
        /// File to write; standard output without it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Write a session's PSBT: transaction, spent outputs, keys, and the nonces and partial signatures that are known
    #[command(after_help = PSBT_EXAMPLES)]
    ExportPsbt {
        #[command(flatten)]
        args: ExportArgs,
        /// Ask the coordinator for what the other members have given. It is checked, and never decides what is signed
        #[arg(long)]
        from_coordinator: bool,
    },
    /// Take from a PSBT the public nonces, or the partial signatures, that a signer outside has added. That approves the session
    #[command(after_help = PSBT_EXAMPLES)]
    ImportPsbt {
        /// The file, base64 or bytes; - for standard input
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ResolverCommand {
    /// Answer GET and POST /1.0/identifiers/{did} until told to stop (SIGTERM, Ctrl-C), as a driver of the Universal Resolver
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RollbackCommand {
    /// Show what was signed and forgotten, spends that nobody here signed, and outputs in quarantine
    Show,
    /// Sign again with outputs in quarantine. Only if no other copy of this agent runs
    Confirm {
        /// The cohort's id [default: all cohorts]
        cohort_id: Option<String>,
        /// DID of its coordinator, where two of them use this id
        #[arg(long, value_name = "DID")]
        coordinator: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DidcommCommand {
    /// Encrypt a message to a DID (authcrypt) and print the envelope
    Pack {
        #[command(flatten)]
        message: MessageArgs,
    },
    /// Decrypt an envelope for one of this agent's DIDs and print who sent what
    Unpack {
        /// File with the envelope; standard input without it
        file: Option<PathBuf>,
    },
    /// Encrypt a message and send it to the recipient's endpoint
    Send {
        #[command(flatten)]
        message: MessageArgs,
        /// Seconds to wait for an answer on the same socket; 0: none
        #[arg(long, default_value_t = 5, value_name = "S")]
        wait: u64,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct JoinArgs {
    #[command(flatten)]
    pub(crate) cohort: CohortArg,
    /// DID to answer for; may be given several times
    #[arg(long, required = true)]
    pub(crate) did: Vec<String>,
    /// Have a signer outside of this agent make nonces and partial signatures; see `signer`
    #[arg(long)]
    pub(crate) outside_signer: bool,
    /// Agree that not only all members together can spend from the beacon: `cohorts` says who else can
    #[arg(long)]
    pub(crate) accept_script_tree: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CohortArg {
    /// The cohort's id
    cohort_id: String,
    /// DID of its coordinator, where two of them use this id
    #[arg(long, value_name = "DID")]
    coordinator: Option<String>,
}

impl CohortArg {
    /// The parameters that name the cohort, and others.
    pub(crate) fn with(self, others: serde_json::Value) -> serde_json::Value {
        let mut params = others;
        params["cohort_id"] = self.cohort_id.into();
        params["coordinator"] = self.coordinator.into();
        params
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct MessageArgs {
    /// The recipient's DID
    #[arg(long)]
    pub(crate) to: String,
    /// The message's type URI
    #[arg(
        long = "type",
        value_name = "URI",
        default_value = "https://didcomm.org/basicmessage/2.0/message"
    )]
    pub(crate) kind: String,
    /// The body, a JSON object
    #[arg(long, default_value = "{}", value_name = "JSON")]
    pub(crate) body: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Check an evidence file, without a running agent
    Verify {
        /// The file
        file: PathBuf,
    },
}
