//! `beacon-coordinator cohort fund`: where a cohort's money goes, and whether it has come.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cli::{Failure, Global, print_line};

/// How often the agent is asked, and how long nothing is said while nothing changes.
const PULSE: Duration = Duration::from_millis(500);
const SILENCE: Duration = Duration::from_secs(30);

/// What the operator asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The cohort's id.
    pub cohort_id: String,
    /// What is to be paid, sat: part of the URI.
    pub amount: Option<u64>,
    /// For how long the deposit is waited for; zero: not at all.
    pub wait: Duration,
}

/// Shows the address, as text and as a code to scan, and waits until what is there pays for the next signal, and holds as much
/// as was asked for.
pub async fn run(global: &Global, agent: &str, request: Request) -> Result<(), Failure> {
    let Request {
        cohort_id,
        amount,
        wait,
    } = request;
    let mut cohort = show(global, agent, &cohort_id).await?;
    if cohort["phase"] != "acknowledged" {
        let why = cohort["funding"].as_str().unwrap_or("it has no address");
        return Err(anyhow!("cohort {cohort_id} takes no money: {why}").into());
    }
    let max = cohort["max_balance_sat"].as_u64().unwrap_or(0);
    let held = balance(&cohort);
    let wanted = held.saturating_add(amount.unwrap_or(0));
    if wanted > max {
        return Err(Failure::usage(anyhow!(
            "got --amount {} for an address that holds {held} sat, expected at most {} sat: its members do not sign with more than the {max} sat of the terms",
            amount.unwrap_or(0),
            max.saturating_sub(held)
        )));
    }
    let address = cohort["beacon_address"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let uri = uri(&address, amount, &cohort_id);
    if !global.json {
        print_line(&format!(
            "{}\n{address}\n{uri}\nAt risk: {}",
            code(&uri)?,
            cohort["at_risk"].as_str().unwrap_or_default()
        ))?;
    }
    let began = Instant::now();
    let (mut last, mut said) = (String::new(), began);
    while !wait.is_zero() && !is_funded(&cohort, wanted) {
        let state = state(&cohort);
        if state != last || said.elapsed() >= SILENCE {
            eprintln!("{agent}: {state}");
            (last, said) = (state, Instant::now());
        }
        if began.elapsed() >= wait {
            return Err(anyhow!("no deposit in {} s: {last}", wait.as_secs()).into());
        }
        sleep(PULSE).await;
        cohort = show(global, agent, &cohort_id).await?;
    }
    global.print(&json!({
        "cohort_id": cohort_id,
        "beacon_address": address,
        "uri": uri,
        "funds": cohort["funds"],
        "balance_sat": cohort["balance_sat"],
        "funding": cohort["funding"],
        "missing_sat": cohort["missing_sat"],
        "fee_rate_sat_vb": cohort["fee_rate_sat_vb"],
        "at_risk": cohort["at_risk"],
    }))
}

async fn show(global: &Global, agent: &str, cohort_id: &str) -> Result<Value, Failure> {
    let params = json!({ "cohort_id": cohort_id });
    global.ask(agent, "cohort.show", params).await
}

fn balance(cohort: &Value) -> u64 {
    cohort["balance_sat"].as_u64().unwrap_or(0)
}

/// Whether what is in blocks is as much as was wanted, and pays for a signal.
fn is_funded(cohort: &Value, wanted: u64) -> bool {
    balance(cohort) >= wanted && cohort["funding_state"] == "enough"
}

/// What there is, for people.
fn state(cohort: &Value) -> String {
    let funds = cohort["funds"].as_array().into_iter().flatten();
    let waiting = funds.filter(|fund| fund["height"].is_null());
    let waiting: u64 = waiting.filter_map(|fund| fund["value"].as_u64()).sum();
    let funding = cohort["funding"].as_str().unwrap_or_default();
    let held = balance(cohort);
    match waiting {
        0 => format!("{held} sat are there: {funding}"),
        sat => format!("{held} sat are there, {sat} sat wait for a block: {funding}"),
    }
}

/// A URI that wallets read (BIP21).
fn uri(address: &str, amount: Option<u64>, cohort_id: &str) -> String {
    let label = format!("beacon%20cohort%20{cohort_id}");
    match amount {
        None => format!("bitcoin:{address}?label={label}"),
        Some(sat) => {
            let (whole, rest) = (sat / 100_000_000, sat % 100_000_000);
            format!("bitcoin:{address}?amount={whole}.{rest:08}&label={label}")
        }
    }
}

/// Two modules in each character, dark on light, so that terminals with either background show what cameras read.
fn code(text: &str) -> Result<String, Failure> {
    let code = QrCode::new(text).map_err(|error| anyhow!("cannot make a QR code: {error}"))?;
    let mut image = code.render::<Dense1x2>();
    Ok(image
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_those_of_bip21() {
        let uri = |amount| uri("bcrt1q", amount, "7c0f");
        assert_eq!(uri(None), "bitcoin:bcrt1q?label=beacon%20cohort%207c0f");
        let with = uri(Some(123_456_789));
        assert!(
            with.starts_with("bitcoin:bcrt1q?amount=1.23456789&"),
            "{with}"
        );
        assert!(uri(Some(600)).contains("?amount=0.00000600&"));
    }

    #[test]
    fn a_code_is_drawn_as_a_square_with_its_margin() {
        let code = code("bitcoin:bcrt1q").unwrap_or_else(|_| panic!("a short text"));
        let lines: Vec<_> = code.lines().collect();
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width));
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(lines[0].chars().all(|module| module == '█'), "{code}");
    }

    #[test]
    fn what_waits_for_a_block_is_not_there_yet() {
        let cohort = json!({
            "balance_sat": 700, "funding": "enough for the next signal", "funding_state": "enough",
            "funds": [{ "value": 700, "height": 3 }, { "value": 50, "height": null }],
        });
        assert!(is_funded(&cohort, 700));
        assert!(!is_funded(&cohort, 750));
        assert!(state(&cohort).contains("50 sat wait for a block"));
    }
}
