//! How much an agent takes, keeps, sends and waits: every limit that a user can set, in one table.
//!
//! Names are those of the flags (with hyphens), of the file (table `[limits]`) and, in capitals, of the environment.
//! docs/architecture.md says for each where it is enforced and which test reaches it, and a test compares that page with
//! [`TABLE`]. What is part of the protocol cannot be set, and is listed there as well.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::rates::Rate;
use crate::settings::SettingsError;
use crate::store::StoreLimits;
use crate::transport::TransportConfig;

/// A limit's name, default and range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In the configuration file.
    pub name: &'static str,
    /// Where nothing is set.
    pub default: u64,
    /// Smallest value.
    pub least: u64,
    /// Largest value.
    pub most: u64,
}

macro_rules! limits {
    ($($name:ident: $type:ty = $default:literal, $least:literal, $most:literal, $help:literal;)+) => {
        /// The limits that hold.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $(#[doc = $help] pub $name: $type,)+
        }

        /// The limits that somebody has set.
        #[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct LimitOptions {
            $(
                #[doc = $help]
                #[arg(
                    long,
                    value_name = "N",
                    help_heading = "Limits",
                    hide_short_help = true,
                    help = concat!($help, " [default: ", $default, "]")
                )]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type>,
            )+
        }

        /// Every limit that can be set.
        pub const TABLE: &[Limit] = &[
            $(Limit { name: stringify!($name), default: $default, least: $least, most: $most },)+
        ];

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl LimitOptions {
            /// Checks every value and fills in the defaults.
            pub fn resolve(self) -> Result<Limits, SettingsError> {
                let limits = Limits {
                    $($name: match self.$name.unwrap_or($default) {
                        value if ($least..=$most).contains(&value) => value,
                        value => return Err(SettingsError::Range {
                            name: stringify!($name),
                            got: value.to_string(),
                            expected: concat!($least, " to ", $most),
                        }),
                    },)+
                };
                limits.fitting()
            }
        }
    };
}

limits! {
    // Sockets.
    max_message_bytes: usize = 1_048_576, 4_096, 67_108_864, "Bytes of one message; a larger one closes its socket";
    max_connections: usize = 4_096, 1, 1_000_000, "Sockets at one time";
    max_connections_per_ip: usize = 64, 1, 1_000_000, "Accepted sockets from one address (IPv6: from one /64)";
    max_connections_per_did: usize = 4, 1, 64, "Sockets of one DID; the oldest is closed for one more";
    send_queue: usize = 64, 1, 65_536, "Frames that wait for one socket; one more closes it";
    connect_timeout_s: u64 = 10, 1, 3_600, "Seconds for a dial, and for a caller's handshake";
    send_timeout_s: u64 = 60, 1, 3_600, "Seconds for one frame to leave";
    close_timeout_s: u64 = 5, 1, 3_600, "Seconds for a socket to close; twice that for all of them at the end";
    heartbeat_s: u64 = 20, 1, 3_600, "Seconds between two pings on a socket; two without an answer close it";
    idle_timeout_s: u64 = 900, 10, 86_400, "Seconds without a message after which a socket is closed";
    // Rates.
    ip_messages_per_s: u64 = 500, 1, 1_000_000, "Messages each second from one address; more wait in its sockets";
    ip_burst: u64 = 2_000, 1, 1_000_000, "Messages at once from one address";
    peer_messages_per_s: u64 = 50, 1, 1_000_000, "Messages each second of one member or coordinator; more are refused";
    peer_burst: u64 = 500, 1, 1_000_000, "Messages at once of one member or coordinator";
    stranger_messages_per_s: u64 = 20, 1, 1_000_000, "Messages each second of all others together; a quarter from one address";
    stranger_burst: u64 = 4_000, 4, 1_000_000, "Messages at once of all others together; a quarter from one address";
    report_window_s: u64 = 600, 1, 86_400, "Seconds after which the same refusal of the same peer is logged again";
    report_memory: usize = 4_096, 1, 1_000_000, "Refusals that are remembered as logged";
    report_lines_per_s: u64 = 10, 1, 100_000, "Refusals of strangers logged each second; ten times as many at once";
    // The loop and its peers.
    inbound_queue: usize = 256, 1, 65_536, "Messages, calls and chain reports that wait for the agent, of each";
    inbound_bytes: usize = 67_108_864, 4_096, 1_073_741_824, "Bytes of messages that wait for the agent";
    recent_ids: usize = 16_384, 1, 10_000_000, "Message ids remembered in memory";
    max_routes: usize = 65_536, 1, 10_000_000, "Peers whose socket is known";
    max_peers_per_connection: usize = 64, 1, 65_536, "Peers that one socket leads to";
    max_dials: usize = 64, 1, 65_536, "Dials at one time";
    redial_max_s: u64 = 60, 1, 86_400, "Longest wait between two dials of one peer";
    // Outbox and store.
    outbox_per_peer: usize = 128, 2, 65_536, "Messages that wait for one peer; half of them news";
    outbox_total: usize = 65_536, 2, 10_000_000, "Messages that wait for all peers; half of them news";
    outbox_bytes: usize = 268_435_456, 65_536, 1_099_511_627_776, "Bytes of messages that wait for all peers; half of them news";
    send_window: usize = 16, 1, 65_536, "Messages sent to one peer in one go; at most send_queue";
    resend_max_s: u64 = 60, 5, 86_400, "Longest wait for an acknowledgement";
    seen_per_sender: usize = 4_096, 1, 10_000_000, "Processed message ids kept of one sender";
    seen_total: usize = 262_144, 2, 100_000_000, "Processed message ids kept; half of them of strangers";
    record_bytes: usize = 16_777_216, 65_536, 1_073_741_824, "Bytes of one record in the store";
    snapshot_bytes: usize = 1_073_741_824, 65_536, 1_099_511_627_776, "Bytes of a snapshot of the state";
    max_log_events: u64 = 10_000_000, 1, 1_000_000_000, "Events in the log; nothing new begins with more";
    max_log_bytes: u64 = 4_294_967_296, 65_536, 1_099_511_627_776, "Bytes of events in the log; nothing new begins with more";
    snapshot_events: u64 = 10_000, 1, 1_000_000_000, "Events between two snapshots of the state";
    keep_events: u64 = 100_000, 0, 1_000_000_000, "Events that are kept when a snapshot stands for them";
    log_warn_percent: u64 = 80, 1, 100, "Percentage of max_log_events or max_log_bytes at which the agent warns";
    // The control socket.
    control_connections: usize = 32, 1, 4_096, "Control connections at one time, each with one request under way";
    control_followers: usize = 16, 1, 4_096, "Followers of events at one time";
    control_request_bytes: usize = 1_048_576, 1_024, 67_108_864, "Bytes of one control request";
    control_timeout_s: u64 = 30, 1, 3_600, "Seconds for a control request, its answer, or the silence before one";
    follower_queue: usize = 4_096, 1, 1_000_000, "Events that a follower may be behind; a slower one is cut off";
    events_backlog: usize = 10_000, 1, 1_000_000, "Past events that one call returns";
    // The machines.
    max_subscribers: usize = 10_000, 1, 1_000_000, "Subscribers (coordinator)";
    max_cohorts: usize = 1_000, 1, 100_000, "Cohorts that are not over (coordinator)";
    max_members: u64 = 1_000, 1, 1_000, "Members of one cohort (coordinator)";
    max_indexes_per_member: u64 = 256, 1, 256, "Indexes of one member (coordinator)";
    max_coordinators: usize = 1_000, 1, 4_096, "Coordinators (participant)";
    max_cohorts_per_coordinator: usize = 1_000, 1, 100_000, "Cohorts remembered of one coordinator (participant)";
    // The chain source.
    chain_timeout_s: u64 = 10, 1, 3_600, "Seconds for one request to the chain source";
    chain_retries: usize = 2, 0, 100, "Repetitions of a request that the chain source was too busy for";
}

impl Limits {
    /// The same, if the values fit each other.
    fn fitting(self) -> Result<Self, SettingsError> {
        if self.send_window > self.send_queue {
            return Err(SettingsError::Range {
                name: "send_window",
                got: self.send_window.to_string(),
                expected: "at most send_queue: more would close every socket",
            });
        }
        Ok(self)
    }

    pub(crate) fn transport(&self) -> TransportConfig {
        TransportConfig {
            listen: None,
            max_frame: self.max_message_bytes,
            heartbeat: Duration::from_secs(self.heartbeat_s),
            idle_timeout: Duration::from_secs(self.idle_timeout_s),
            connect_timeout: Duration::from_secs(self.connect_timeout_s),
            send_timeout: Duration::from_secs(self.send_timeout_s),
            close_timeout: Duration::from_secs(self.close_timeout_s),
            max_connections: self.max_connections,
            max_connections_per_ip: self.max_connections_per_ip,
            send_queue: self.send_queue,
            ip_rate: Rate::new(self.ip_messages_per_s, self.ip_burst),
            inbound_bytes: self.inbound_bytes,
        }
    }

    /// The store's, which are a backstop where the driver counts first: a dead peer must never make a commit fail.
    pub fn store(&self) -> StoreLimits {
        StoreLimits {
            seen_per_sender: self.seen_per_sender,
            seen_total: self.seen_total,
            outbox_per_peer: self.outbox_per_peer.saturating_mul(2),
            outbox_total: self.outbox_total,
            record_bytes: self.record_bytes,
            snapshot_bytes: self.snapshot_bytes,
            ..StoreLimits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_in_its_range_and_fits_the_others() {
        assert_eq!(
            LimitOptions::default().resolve().unwrap(),
            Limits::default()
        );
        for limit in TABLE {
            assert!(
                (limit.least..=limit.most).contains(&limit.default),
                "{limit:?}"
            );
        }
    }

    #[test]
    fn every_limit_is_refused_outside_of_its_range_by_name() {
        let of = |name: &str, value: u64| {
            let object = serde_json::json!({ name: value });
            serde_json::from_value::<LimitOptions>(object).map(LimitOptions::resolve)
        };
        for limit in TABLE {
            let Limit {
                name, least, most, ..
            } = *limit;
            let outside = [Some(most + 1), least.checked_sub(1)];
            for value in outside.into_iter().flatten() {
                // What does not even fit the type is refused when it is read.
                if let Ok(resolved) = of(name, value) {
                    let error = resolved.unwrap_err().to_string();
                    let wanted = format!("{name}: got {value}, expected {least} to {most}");
                    assert_eq!(error, wanted);
                }
            }
        }
    }

    #[test]
    fn a_window_that_would_fill_the_queue_is_refused() {
        let options = LimitOptions {
            send_queue: Some(8),
            ..LimitOptions::default()
        };
        let error = options.resolve().unwrap_err().to_string();
        assert!(error.starts_with("send_window: got 16"), "{error}");
    }
}
