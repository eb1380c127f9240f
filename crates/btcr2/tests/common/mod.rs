//! A chain and a store that answer a resolver from memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub,
    dead_code,
    reason = "a part of test programs, each of which uses some of it"
)]

pub mod world;

use std::collections::BTreeMap;

use beacon_btcr2::json;
use beacon_btcr2::resolver::{Object, Signal};
use beacon_btcr2::{Did, Hash32, Next, Request, Resolution, ResolutionOptions, Resolver};
use bitcoin::Address;
use serde_json::Value;

/// What there is to find.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// What spends from an address.
    pub signals: BTreeMap<Address, Vec<Signal>>,
    /// The content addressed store.
    pub objects: BTreeMap<Hash32, Vec<u8>>,
}

/// An answer to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Signals(Vec<Signal>),
    Object(Option<Vec<u8>>),
}

impl Sources {
    pub fn store(&mut self, object: &Value) -> Hash32 {
        let hash = json::hash(object);
        self.objects.insert(hash, object.to_string().into_bytes());
        hash
    }

    pub fn answer(&self, request: &Request) -> Answer {
        match request {
            Request::Signals(address) => {
                Answer::Signals(self.signals.get(address).cloned().unwrap_or_default())
            }
            Request::Object(Object { hash, .. }) => Answer::Object(self.objects.get(hash).cloned()),
        }
    }

    pub fn resolve(&self, did: &Did, options: ResolutionOptions) -> Resolution {
        drive(Resolver::new(did.clone(), options), |requests| {
            let answers = requests.into_iter();
            answers
                .map(|request| {
                    let answer = self.answer(&request);
                    (request, answer)
                })
                .collect()
        })
    }
}

/// Runs a resolver to its end. `answers` may change the order of requests, and leave some out for the next round.
pub fn drive(
    mut resolver: Resolver,
    mut answers: impl FnMut(Vec<Request>) -> Vec<(Request, Answer)>,
) -> Resolution {
    for _ in 0..1_000_000 {
        match resolver.next() {
            Next::Done(resolution) => {
                assert_eq!(
                    resolver.next(),
                    Next::Done(resolution.clone()),
                    "it stays done"
                );
                return resolution;
            }
            Next::Need(requests) => {
                assert!(!requests.is_empty(), "it waits for nothing");
                for (request, answer) in answers(requests) {
                    give(&mut resolver, request, answer);
                }
            }
        }
    }
    panic!("a resolution that does not end");
}

pub fn give(resolver: &mut Resolver, request: Request, answer: Answer) {
    match (request, answer) {
        (Request::Signals(address), Answer::Signals(signals)) => {
            resolver.answer_signals(&address, signals);
        }
        (Request::Object(object), Answer::Object(answer)) => {
            resolver.answer_object(object, answer);
        }
        (request, answer) => panic!("{answer:?} for {request:?}"),
    }
}

/// The code of a failure.
pub fn code(resolution: &Resolution) -> String {
    let result = resolution.to_value();
    let code = &result["didResolutionMetadata"]["error"];
    code.as_str().unwrap_or("none").to_owned()
}
