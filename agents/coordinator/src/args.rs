//! The command line of `beacon-coordinator`.

use std::path::PathBuf;

use beacon_runtime::cli::{DidArgs, EventsArgs, Global, RunArgs, name_and_value};
use beacon_runtime::keys::commands::KeysCommand;
use beacon_runtime::psbt::ExportArgs;
use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  beacon-coordinator run --listen 127.0.0.1:8765 --chain-url http://127.0.0.1:3002
  beacon-coordinator did
  beacon-coordinator cohort advertise --min-members 2
  beacon-coordinator cohort show 7c0f3a52-2a0e-4f0b-9b8e-0f6d2c1f7a11 --json
  beacon-coordinator session start 7c0f3a52-2a0e-4f0b-9b8e-0f6d2c1f7a11
  beacon-coordinator session export-psbt 641a359f-29f4-4c6b-98ca-c846aaf615e2 --out session.psbt
  beacon-coordinator keys export --out coordinator.age
  beacon-coordinator events --until signal_confirmed

The options above and those of `run` can be set in the environment as BEACON_COORDINATOR_<NAME>, and those of
`run` in config.toml in the data directory; every command goes by them. BEACON_COORDINATOR_PASSPHRASE can hold the
passphrase of the keys; a file is better (--passphrase-file). RUST_LOG chooses what is logged.

Exit codes: 0 done, or proven; 1 refused, failed or not proven; 2 command line, configuration or unreadable file;
3 the agent is not running; 4 the passphrase is missing or wrong.";

/// Coordinates beacon cohorts: advertises them, collects updates, has members co-sign a signal and publishes it. Holds
/// no key and no money.
#[derive(Debug, Parser)]
#[command(name = "beacon-coordinator", version, after_help = EXAMPLES, propagate_version = true)]
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
    /// Show this agent's DID, and an invitation to it
    Did(DidArgs),
    /// Open, list, show, close and end cohorts
    #[command(subcommand)]
    Cohort(CohortCommand),
    /// Start, list and show signing sessions
    #[command(subcommand)]
    Session(SessionCommand),
    /// List, write and check evidence against members
    #[command(subcommand)]
    Evidence(EvidenceCommand),
    /// List the peers that hear of cohorts
    Subscribers,
    /// Show what the agent is doing
    Status,
    /// Protect, list, export and import the agent's keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Print the log of events, and follow it
    Events(EventsArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum CohortCommand {
    /// Open a cohort and tell the subscribers
    Advertise {
        /// Fewest members
        #[arg(long, default_value_t = 2, value_name = "N")]
        min_members: u64,
        /// Most members; the cohort is set when it is reached [default: the fewest]
        #[arg(long, value_name = "N")]
        max_members: Option<u64>,
        /// Who speaks first in a round: push or pull [default: push]
        #[arg(long)]
        flow: Option<String>,
        /// Bitcoin network [default: the agent's]
        #[arg(long)]
        network: Option<String>,
        /// Seconds until the advert ends
        #[arg(long, default_value_t = 86_400, value_name = "S")]
        expires_in: u64,
        /// DID of a peer that may join; with one or more of them nobody else may
        #[arg(long, value_name = "DID")]
        invite: Vec<String>,
        /// Let whoever holds this key spend what has waited long enough, alone: 64 hex digits, as `recovery key` of a
        /// participant prints it. Members must agree to it
        #[arg(long, value_name = "HEX", requires = "recovery_blocks")]
        recovery_key: Option<String>,
        /// Blocks that a deposit or change must be old before that
        #[arg(long, value_name = "N", requires = "recovery_key", value_parser = clap::value_parser!(u64).range(1..=65_535))]
        recovery_blocks: Option<u64>,
        /// Let so many members spend without the others, at any time. Members must agree to it
        #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=999))]
        fallback: Option<u64>,
        /// Address to which `cohort close` pays what the beacon holds; without it the cohort cannot be closed
        #[arg(long, value_name = "ADDRESS")]
        close_to: Option<String>,
        /// Any other member of the terms, such as confirmations=1
        #[arg(long = "term", value_name = "NAME=VALUE", value_parser = name_and_value)]
        terms: Vec<(String, String)>,
    },
    /// List all cohorts
    List,
    /// Show one cohort: members, address, funds, rounds, sessions
    Show {
        /// Its id
        cohort_id: String,
    },
    /// Show where a cohort's money goes, as a code to scan as well, and wait for it
    Fund {
        /// Its id
        cohort_id: String,
        /// What is to be paid, sat: part of the URI, and waited for in blocks
        #[arg(long, value_name = "SAT", value_parser = clap::value_parser!(u64).range(330..))]
        amount: Option<u64>,
        /// Seconds to wait until what is there pays for the next signal; 0: show only
        #[arg(long, value_name = "S", default_value_t = 3_600)]
        wait: u64,
    },
    /// Set a cohort with the members it has
    CloseAdmission {
        /// Its id
        cohort_id: String,
    },
    /// Spend what the address holds to the address of the terms' close script, co-signed by all; the cohort is over then.
    /// Again with a higher fee replaces it; again later spends what came since
    Close {
        /// Its id
        cohort_id: String,
        /// Fee rate, sat/vB, up to the terms' maximum [default: the agent's]
        #[arg(long, value_name = "SAT_VB")]
        fee_rate: Option<u64>,
    },
    /// Replace the signal that waits for its first confirmation by one with a higher fee: the same updates, the same root
    Replace {
        /// Its id
        cohort_id: String,
        /// Fee rate, sat/vB, up to the terms' maximum [default: the agent's, or the lowest that nodes take]
        #[arg(long, value_name = "SAT_VB")]
        fee_rate: Option<u64>,
    },
    /// End a cohort that was set, and invite its members to a new one. What the address holds stays locked there
    Dissolve {
        /// Its id
        cohort_id: String,
        /// DID of a member that is left behind; may be given several times
        #[arg(long, value_name = "DID")]
        without: Vec<String>,
        /// Invite nobody to a new cohort
        #[arg(long)]
        no_successor: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// List what convicts members
    List {
        /// Only of this cohort
        cohort_id: Option<String>,
    },
    /// Write an evidence file that anybody can check
    Export {
        /// The cohort's id
        cohort_id: String,
        /// Its number in the list
        number: u64,
        /// The file to write [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check an evidence file, without a running agent
    Verify {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Start a round now, or try again one that stopped
    Start {
        /// The cohort's id
        cohort_id: String,
    },
    /// Write a session's PSBT: with what members have given so far, or, of a signed one, finished
    ExportPsbt(ExportArgs),
    /// List sessions: under way, signed, abandoned
    List {
        /// Only of this cohort
        cohort_id: Option<String>,
    },
}
