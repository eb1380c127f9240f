//! Temporary generator.
#![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
use std::collections::VecDeque;
use beacon_cohort::coordinator::{self, Coordinator};
use beacon_cohort::ids::{CohortId, PeerId, Timestamp};
use beacon_cohort::machine::*;
use beacon_cohort::message::{Message, Subscribe, TYPE_PREFIX};
use beacon_cohort::participant::{self, Participant, Policy};
use beacon_cohort::signer::{KeyPath, LocalSigner};
use beacon_cohort::terms::{AgreedTerms, BtcNetwork};
use beacon_signal::UpdateId;
use bitcoin::bip32::{ChildNumber, Xpriv};
use bitcoin::hashes::Hash as _;
use bitcoin::secp256k1::Secp256k1;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use uuid::Builder;
use zeroize::Zeroizing;

const CAROL: &str = "did:peer:2.Vz6MktX7xkDmrHCr3rNs3idBnCEGyyDtNMF33JTjVDCx1dQjg.Ez6LSeybV9anCMVSJeocxKiamAzoeokwM5GoMqWwSo5W3Ka7w.SeyJ0IjoiZG0iLCJzIjp7InVyaSI6IndzOi8vbG9jYWxob3N0Ojg3NjUiLCJhIjpbImRpZGNvbW0vdjIiXSwiciI6W119fQ";
const FRED: &str = "did:peer:2.Vz6MkkMAEqgHf2FQN7n17gVcsPBWcELT8X86dBWTD59EJ2KnE.Ez6LSdJ2MgqHSqdfNHxZUDweHSPCeVLYCkSJUH1yuch7wocon.SeyJ0IjoiZG0iLCJzIjp7InVyaSI6ImRpZGNvbW06dHJhbnNwb3J0L3F1ZXVlIiwiYSI6WyJkaWRjb21tL3YyIl0sInIiOltdfX0";
const LUCIA: &str = "did:peer:2.Vz6MkgkBXQtYqz76h9xsbjkhRYHT1e8h5iixxQcVsdheMUzHD.Ez6LSeE3AsFizmjcGmjwMmG6u2cDzM7AtFoQAouSahRdS86Pp.SeyJ0IjoiZG0iLCJzIjp7InVyaSI6ImRpZGNvbW06dHJhbnNwb3J0L3F1ZXVlIiwiYSI6WyJkaWRjb21tL3YyIl0sInIiOltdfX0";
const SEEDS: [&str; 2] = ["761914478ebf6fe16185749372e91549361af22b386de46322cf8b1ba7e92e80c4af05196f742be1e63aab603899842ddadf4e7248d8e43870a4b6ff9bf16324", "848bbe19cad445e46f35fd3d1a89463583ac2b60b5eb4cfcf955731775a5d9e17a81a71613fed83f1ae27b408478fdec2bbc75b5161d1937aa7cdf4ad686ef5f"];
const DIDS: [&str; 2] = ["did:btcr2:k1qqp8n0nx0muaewav2ksx99wwsu9swq5mlndjmn3gm9vl9q2mzmup0xqhmkf96", "did:btcr2:x1hjw6jnhwcyu5wau4x0cpwvz74c3g82c3uaehqpaf7lzfgmnwsd7spmmf54"];

struct W {
    now: Timestamp, rng: ChaCha20Rng, ids: ChaCha20Rng,
    c: Coordinator, p: Vec<(PeerId, Participant, LocalSigner<Box<dyn Fn(KeyPath) -> Zeroizing<[u8;32]>>, ChaCha20Rng>)>,
    q: VecDeque<(String, PeerId, PeerId, Message)>, out: Vec<Value>, broadcast: Vec<bitcoin::Transaction>,
}
fn drive<M: Machine>(m: &mut M, i: Input<M::Command>, now: Timestamp, rng: &mut ChaCha20Rng) -> (Vec<Effect>, Vec<Effect>) {
    let mut fx = vec![]; let mut s = m.step(i, now, rng).unwrap(); let direct = std::mem::take(&mut s.effects);
    loop { for e in &s.events { m.apply(e); } fx.append(&mut s.effects); s = m.step(Input::Tick, now, rng).unwrap(); if s.events.is_empty() { return (direct, fx); } }
}
impl W {
    fn uuid(&mut self) -> String { let mut b=[0;16]; self.ids.fill_bytes(&mut b); Builder::from_random_bytes(b).into_uuid().to_string() }
    fn fx(&mut self, at: PeerId, (direct, later): (Vec<Effect>, Vec<Effect>), cause: Option<(String, PeerId)>) {
        let mut acked = false; let n = direct.len();
        for (k, e) in direct.into_iter().chain(later).enumerate() { if k >= n { acked = true; } match e {
            Effect::Send { to, message, expires } => {
                let id = self.uuid();
                let mut m = serde_json::Map::new();
                m.insert("id".into(), json!(id)); m.insert("typ".into(), json!("application/didcomm-plain+json"));
                m.insert("type".into(), json!(format!("{TYPE_PREFIX}{}", message.kind())));
                m.insert("from".into(), json!(at)); m.insert("to".into(), json!([to]));
                match message.thread() { (Some(c), Some(s)) => { m.insert("thid".into(), json!(s)); m.insert("pthid".into(), json!(c)); }, (Some(c), None) => { m.insert("thid".into(), json!(c)); }, _ => {} }
                m.insert("created_time".into(), json!(self.now)); m.insert("expires_time".into(), json!(expires));
                m.insert("return_route".into(), json!("all")); m.insert("please_ack".into(), json!([""]));
                if let Some((cid, from)) = &cause { if *from == to && !acked { acked = true; m.insert("ack".into(), json!([cid])); } }
                m.insert("body".into(), message.body().unwrap());
                self.out.push(Value::Object(m));
                self.q.push_back((id, at.clone(), to, message));
            }
            Effect::Sign(r) => { let n = self.p.iter().position(|p| p.0 == at).unwrap(); if let Some(a) = self.p[n].2.handle(r) { let f = drive(&mut self.p[n].1, Input::Signer(a), self.now, &mut self.rng); self.fx(at.clone(), f, None); } }
            Effect::Broadcast(tx) => { self.broadcast.push(tx); }
            e => panic!("{e:?}"),
        } }
    }
    fn cc(&mut self, i: Input<coordinator::Command>) { let f = drive(&mut self.c, i, self.now, &mut self.rng); self.fx(PeerId::new(CAROL), f, None); }
    fn pp(&mut self, n: usize, i: Input<participant::Command>) { let f = drive(&mut self.p[n].1, i, self.now, &mut self.rng); let at = self.p[n].0.clone(); self.fx(at, f, None); }
    fn settle(&mut self) {
        while let Some((id, from, to, message)) = self.q.pop_front() {
            self.now.0 += 1;
            let i = (from.clone(), to.clone());
            let f = match self.p.iter().position(|p| p.0 == to) {
                Some(n) => drive(&mut self.p[n].1, Input::Message { from: i.0, to: i.1, message }, self.now, &mut self.rng),
                None => drive(&mut self.c, Input::Message { from: i.0, to: i.1, message }, self.now, &mut self.rng),
            };
            self.fx(to, f, Some((id, from)));
        }
    }
}
#[test]
fn generate() {
    let keys = |n: usize| -> Box<dyn Fn(KeyPath) -> Zeroizing<[u8;32]>> { Box::new(move |p: KeyPath| {
        let s = hex::decode(SEEDS[n]).unwrap(); let k = Xpriv::new_master(bitcoin::NetworkKind::Test, &s).unwrap();
        let path = [1642, 1, p.index].map(|i| ChildNumber::from_hardened_idx(i).unwrap());
        Zeroizing::new(k.derive_priv(&Secp256k1::new(), &path).unwrap().private_key.secret_bytes()) }) };
    let p = [FRED, LUCIA].iter().enumerate().map(|(n, d)| { let mut policy = Policy::asking(BtcNetwork::Regtest); policy.auto_sign = n == 0;
        (PeerId::new(*d), Participant::new(policy), LocalSigner::new(keys(n), ChaCha20Rng::seed_from_u64(n as u64))) }).collect();
    let c = Coordinator::new(coordinator::Config { label: Some("carol".into()), ..Default::default() });
    let mut w = W { now: Timestamp(1_800_000_000), rng: ChaCha20Rng::seed_from_u64(7), ids: ChaCha20Rng::seed_from_u64(8), c, p, q: VecDeque::new(), out: vec![], broadcast: vec![] };
    for n in 0..2 { let own = w.p[n].0.clone(); w.pp(n, Input::Command(participant::Command::Subscribe { coordinator: PeerId::new(CAROL), own, identity: 0, filter: Subscribe { networks: vec![BtcNetwork::Regtest], beacon_types: vec![], label: Some(["fred","lucia"][n].into()) } })); }
    w.settle();
    let cohort: CohortId = w.uuid().parse().unwrap();
    let terms = json!({"version":1,"beacon_type":"SMTBeacon","btc_network":"regtest","advert_expires":w.now.0+86400,"min_members":2,"max_members":2,"confirmations":2});
    w.cc(Input::Command(coordinator::Command::Advertise { cohort, terms: AgreedTerms::parse(terms).unwrap(), invited: Default::default() }));
    w.settle();
    for n in 0..2 { w.pp(n, Input::Command(participant::Command::Join { cohort, dids: vec![DIDS[n].into()] })); }
    w.settle();
    let beacon = w.c.state().cohorts[&cohort].beacon.clone().unwrap();
    let outpoint = bitcoin::OutPoint::new(bitcoin::Txid::from_byte_array([0x11; 32]), 0);
    w.cc(Input::Chain(ChainFact::Funds { script: beacon.script().to_owned(), funds: vec![Fund { outpoint, value: 50_000, height: Some(101) }] }));
    let upd = UpdateId::from_hex(&"ab".repeat(32)).unwrap();
    w.pp(0, Input::Command(participant::Command::RequestUpdate { cohort, did: DIDS[0].into(), update: upd }));
    w.settle();
    let view = || ChainFact::Output { outpoint, view: OutputView::Seen { output: bitcoin::TxOut { value: bitcoin::Amount::from_sat(50_000), script_pubkey: beacon.script().to_owned() }, confirmations: 1, spent_by: None } };
    let s1 = w.p[1].1.state().cohorts[&cohort].session.as_ref().unwrap().id;
    w.pp(0, Input::Chain(view()));
    w.settle();
    w.pp(1, Input::Command(participant::Command::Decline { session: s1, comment: "not today".into() }));
    w.settle();
    w.now.0 += 60;
    w.cc(Input::Command(coordinator::Command::StartRound { cohort }));
    w.settle();
    let s2 = w.p[1].1.state().cohorts[&cohort].session.as_ref().unwrap().id;
    w.pp(1, Input::Command(participant::Command::Approve { session: s2 }));
    for n in 0..2 { w.pp(n, Input::Chain(view())); }
    w.settle();
    let tx = w.broadcast[0].clone(); let txid = tx.compute_txid();
    w.cc(Input::Chain(ChainFact::Broadcast { txid, outcome: BroadcastOutcome::Accepted }));
    w.settle();
    w.now.0 += 600;
    w.cc(Input::Chain(ChainFact::Transaction { txid, view: TransactionView::Confirmed { height: 102, block_hash: bitcoin::BlockHash::from_byte_array([0x22; 32]) }, tip: 102 }));
    w.settle();
    w.pp(0, Input::Command(participant::Command::Join { cohort, dids: vec!["did:btcr2:k1qqpm0tl8k9wuyczz6gukxv3qhul3ctzqzdnz3vu4d45nurp0ug4ftvg6zjlse".into()] }));
    w.settle();
    w.pp(0, Input::Command(participant::Command::Unsubscribe { coordinator: PeerId::new(CAROL) }));
    w.settle();
    let m = &w.p[0].1.state().cohorts[&cohort].candidates[0];
    let l = &w.p[1].1.state().cohorts[&cohort].candidates[0];
    std::fs::write("/tmp/docsgen/out.json", serde_json::to_string_pretty(&json!({"messages": w.out, "fred_proofs": m.proofs.values().collect::<Vec<_>>(), "lucia_proofs": l.proofs.values().collect::<Vec<_>>() })).unwrap()).unwrap();
}
