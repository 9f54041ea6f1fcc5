use crate::config;
use crate::context::Context;
use crate::machines::{Machines, Prefixed, eval, exit_code, pass_on};
use crate::output::printable;
use anyhow::Result;
use forkd_core::machine::{Child, Exec, ForkOptions, Guest, Limits, Stream, Streams};
use forkd_core::{Error, Kind};
use forkd_format::Tag;
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Fork a snapshot copy-on-write into children
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --detach no child outlives the command.\n\nExamples:\n  forkd fork --tag python-numpy -n 8 --eval 'np.arange(9).sum()'\n  \
                  forkd fork --tag python-numpy -n 8 -- sh -c 'hostname; date'\n  forkd fork --tag python-numpy --detach"
)]
pub(crate) struct ForkArgs {
    /// The snapshot
    #[arg(long)]
    tag: Tag,
    /// How many children
    #[arg(short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    n: u16,
    /// Let the children run on for so long after they are awake and their work is done
    #[arg(long, default_value_t = 0, value_name = "SECS")]
    settle_secs: u32,
    /// Let the children live on; see `forkd ls`
    #[arg(long, short)]
    detach: bool,
    /// Memory of the host's that each child may take, at most
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=1_048_576))]
    memory_limit_mib: Option<u64>,
    /// Give the children a network: they reach what this user reaches, this host's loopback included
    #[arg(long)]
    net: bool,
    /// Ask the guest's eval endpoint in every child
    #[arg(long, value_name = "EXPR", conflicts_with = "command")]
    eval: Option<String>,
    /// Kill the program of a child, or give its answer up, after so long
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout_secs: Option<u32>,
    /// Run in every child; each line of output gets the child's number, and the worst exit code is ours
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) fn run(args: &ForkArgs, context: &Context<'_>) -> Result<()> {
    let store = config::store()?;
    store.load(&args.tag)?;
    let machines = Machines::open()?;
    let limits = Limits {
        network: args.net,
        memory: args.memory_limit_mib.map(|mib| mib << 20),
        detached: args.detach,
    };
    let options = ForkOptions { tag: args.tag.clone(), count: args.n.into(), limits };
    let begun = Instant::now();
    let results: Mutex<Vec<Value>> = Mutex::default();
    let work = |child: &Child, guest: &mut Guest| -> forkd_core::Result<()> {
        let result = work(args, context, child, guest)?;
        results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        Ok(())
    };
    let mut children = forkd_core::machine::fork(
        &store,
        &machines.engine,
        &machines.runtime,
        &options,
        context.env(),
        &work,
    )
    .map_err(|e| match e.kind() {
        Kind::Interrupted => Error::new(Kind::Interrupted, "interrupted; no child is left"),
        _ => e,
    })?;
    let time = begun.elapsed().as_secs_f64();
    let until = Instant::now() + Duration::from_secs(args.settle_secs.into());
    while Instant::now() < until {
        context.env().cancel.check()?;
        std::thread::sleep(Duration::from_millis(20));
        children.iter_mut().try_for_each(Child::check_alive)?;
    }
    let plural = if args.n == 1 { "child" } else { "children" };
    let did = match (&args.eval, args.command.is_empty()) {
        (Some(_), _) => "answered",
        (None, true) => "ready",
        (None, false) => "ended",
    };
    context.output.line(&format!("✓ {} {plural} of '{}' {did} in {time:.2}s", args.n, args.tag));
    if args.detach {
        let ids = children.into_iter().map(|child| Ok(child.detach()?.id)).collect::<Result<Vec<_>>>()?;
        context.output.line(&format!("  next: forkd exec {} -- <CMD>, forkd ls, forkd kill --all", ids[0]));
    }
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|result| result["child"].as_u64());
    let worst = results.iter().filter_map(|result| result["exit_code"].as_u64()).max().unwrap_or(0);
    context.output.exit_with(worst as u8);
    context.output.json(&json!({ "tag": args.tag, "children": results, "seconds": time }));
    Ok(())
}

/// What is done in each child, as soon as it is awake.
fn work(
    args: &ForkArgs,
    context: &Context<'_>,
    child: &Child,
    guest: &mut Guest,
) -> forkd_core::Result<Value> {
    let (number, id, begun) = (child.number, &child.id, Instant::now());
    for warning in &child.warnings {
        context.env().progress.note(&format!("child {number}: {}", printable(warning)));
    }
    let mut result =
        json!({ "child": number, "id": id, "pid": child.pid(), "seconds": child.time.as_secs_f64() });
    if let Some(expression) = &args.eval {
        let answer = eval(guest, expression, args.timeout_secs.map(|secs| Duration::from_secs(secs.into())))?;
        let time = (child.time + begun.elapsed()).as_secs_f64();
        context.output.answer(&format!("child {number} answered in {time:.2}s: {}", printable(&answer)));
        result["seconds"] = json!(time);
        result["answer"] = json!(answer);
    } else if args.command.is_empty() {
        let time = child.time.as_secs_f64();
        context.output.answer(&format!("child {number} ready in {time:.2}s: {id}"));
    } else {
        let print = |stream, bytes: &[u8]| drop(pass_on(stream, bytes));
        let prefixed = Prefixed::new(format!("{number}| "), &print);
        let mut kept = [Vec::new(), Vec::new()];
        let mut output = |stream: Stream, bytes: &[u8]| {
            if context.output.is_json() {
                let kept = &mut kept[usize::from(stream == Stream::Err)];
                let room = MOST_KEPT.saturating_sub(kept.len());
                kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            } else {
                prefixed.push(stream, bytes);
            }
            Ok(())
        };
        let exec = Exec {
            argv: args.command.clone(),
            limit_ms: args.timeout_secs.map_or(0, |secs| u64::from(secs) * 1000),
            ..Exec::default()
        };
        let exit = guest.exec(&exec, &mut Streams { input: None, output: &mut output, controls: None })?;
        prefixed.finish();
        let (code, time) = (exit_code(exit), (child.time + begun.elapsed()).as_secs_f64());
        let how = if exit.timed_out { "was killed at its time limit" } else { "ended" };
        context.output.line(&format!("child {number} {how} in {time:.2}s: exit code {code}"));
        result["seconds"] = json!(time);
        result["exit_code"] = json!(code);
        result["timed_out"] = json!(exit.timed_out);
        if context.output.is_json() {
            let [out, err] = kept.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            (result["stdout"], result["stderr"]) = (json!(out), json!(err));
        }
    }
    Ok(result)
}

/// More output than this is cut off in a JSON document, a stream.
const MOST_KEPT: usize = 1 << 20;
