//! `quern store`: content by its hash.

use std::{
    io::Seek as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use quern_store::gateway;
use quern_types::ContentId;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::{
    app::Context,
    failure::{Exit, Failure},
    session::{self, Content},
};

/// Most bytes that `get` and `pin` fetch where nothing else is said: 4 GiB, more than any input, output or model of the protocol.
const DEFAULT_LIMIT_BYTES: u64 = 4 << 30;

/// Commands of `quern store`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Content is named by its CID: the hash of its bytes. What a gateway sends is hashed, so it can withhold and never lie.",
    after_long_help = "The store is a directory (--store, default HOME/store), or a Kubo node (--kubo URL). What is missing there is fetched from --gateway URL.

Examples:
  quern store put notes.txt
  quern store get bafkrei… --out notes.txt --gateway http://127.0.0.1:8480
  quern store serve --listen 0.0.0.0:8480"
)]
pub enum Command {
    /// Serve what this machine holds, as a trustless gateway, until Ctrl-C
    #[command(
        after_long_help = "JSON, once it listens: {\"listen\":ADDRESS}. Only what this machine holds is served; nothing is fetched for visitors."
    )]
    Serve {
        /// Address and port; default: `listen` of the configuration, 127.0.0.1:8480
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
    },
    /// Store a file and pin it
    #[command(after_long_help = "JSON: {\"cid\",\"bytes\"}")]
    Put {
        /// The file; - for standard input
        file: PathBuf,
    },
    /// Write content to a file or to standard output, from here or from gateways
    #[command(after_long_help = "JSON (only with --out): {\"cid\",\"bytes\",\"out\"}")]
    Get {
        /// The content
        cid: ContentId,
        /// The file; it is there whole or not at all. Default: standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Most bytes to fetch
        #[arg(long, value_name = "N", default_value_t = DEFAULT_LIMIT_BYTES)]
        limit_bytes: u64,
    },
    /// Keep content for good, fetching what is missing
    #[command(after_long_help = "JSON: {\"cid\",\"bytes\"}")]
    Pin {
        /// The content
        cid: ContentId,
        /// Most bytes to fetch
        #[arg(long, value_name = "N", default_value_t = DEFAULT_LIMIT_BYTES)]
        limit_bytes: u64,
    },
    /// Keep content no longer: it goes with the next `gc`
    #[command(after_long_help = "JSON: {\"cid\",\"wasPinned\":BOOL}")]
    Unpin {
        /// The content
        cid: ContentId,
    },
    /// Remove what no pin keeps and was stored more than an hour ago
    #[command(after_long_help = "JSON: {\"removedBlocks\",\"removedBytes\",\"keptBytes\"}")]
    Gc,
    /// List what is pinned
    #[command(
        after_long_help = "JSON, one object per line: {\"cid\",\"bytes\"}; bytes is null where blocks are missing or damaged, and \"problem\" says which."
    )]
    List,
}

/// Runs `quern store`.
///
/// # Errors
/// The store's; a file that cannot be read or written.
pub async fn run(context: &Context, command: Command) -> anyhow::Result<()> {
    let content = session::content(&context.config, &[]).await?;
    // A server that is told to stop has done its work; it stops by itself.
    let serves = matches!(command, Command::Serve { .. });
    tokio::select! {
        result = dispatch(context, command, &content) => result,
        () = context.cancel.cancelled(), if !serves => Err(Failure::new("interrupted", "").with_exit(Exit::Interrupted).into()),
    }
}

async fn dispatch(context: &Context, command: Command, content: &Content) -> anyhow::Result<()> {
    match command {
        Command::Serve { listen } => serve(context, content, listen.unwrap_or(context.config.store.listen)).await,
        Command::Put { file } => {
            let mut reader = open(&file).await?;
            let cid = content.local.put_reader(&mut reader).await?;
            content.local.pin(cid).await?;
            let bytes = content.local.stat(cid).await?.size_bytes;
            Ok(context.out.result(&json!({ "cid": cid, "bytes": bytes }), || cid.to_string())?)
        }
        Command::Get { cid, out, limit_bytes } => get(context, content, cid, out, limit_bytes).await,
        Command::Pin { cid, limit_bytes } => {
            let bytes = fetch(context, content, cid, limit_bytes).await?;
            content.local.pin(cid).await?;
            Ok(context.out.result(&json!({ "cid": cid, "bytes": bytes }), || format!("{cid} is pinned: {bytes} bytes"))?)
        }
        Command::Unpin { cid } => {
            let was_pinned = content.local.unpin(cid).await?;
            let text = || format!("{cid} {}", if was_pinned { "is pinned no more" } else { "was not pinned" });
            Ok(context.out.result(&json!({ "cid": cid, "wasPinned": was_pinned }), text)?)
        }
        Command::Gc => collect(context, content).await,
        Command::List => list(context, content).await,
    }
}

async fn serve(context: &Context, content: &Content, listen: SocketAddr) -> anyhow::Result<()> {
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot listen on {listen}: {error}"), "choose another address with --listen ADDR");
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    context.out.result(&json!({ "listen": address }), || format!("serving http://{address}/ipfs/CID until Ctrl-C"))?;
    let server = axum::serve(listener, gateway::service(content.local.clone()));
    // A client that downloads for hours does not hold the end up.
    tokio::select! {
        ended = server.into_future() => ended.map_err(failed)?,
        () = context.cancel.cancelled() => {}
    }
    Ok(())
}

/// Brings content into the store of this machine.
async fn fetch(context: &Context, content: &Content, cid: ContentId, limit: u64) -> anyhow::Result<u64> {
    match content.layered.fetch(cid, limit).await {
        Err(error) if error.is_absent() && context.config.gateways.is_empty() && context.config.store.kubo.is_none() => {
            let remedy = "name a gateway that has it with --gateway URL, or in the configuration file";
            Err(Failure::new(format!("{cid} is not on this machine, and no gateway is configured"), remedy).into())
        }
        result => Ok(result?),
    }
}

async fn get(context: &Context, content: &Content, cid: ContentId, out: Option<PathBuf>, limit: u64) -> anyhow::Result<()> {
    if out.is_none() && context.out.json {
        return Err(Failure::usage("--json and content would share standard output", "pass --out FILE").into());
    }
    // All of it first: what is printed or named is whole and verified.
    let bytes = fetch(context, content, cid, limit).await?;
    let Some(path) = out else {
        let failed = |error: std::io::Error| Failure::new(format!("cannot write the content out: {error}"), "pass --out FILE");
        let mut aside = tempfile::tempfile().map_err(failed)?;
        write(content, cid, limit, aside.try_clone().map_err(failed)?).await?;
        aside.rewind().map_err(failed)?;
        return Ok(context.out.bytes(&mut aside)?);
    };
    write_file(content, cid, limit, &path).await?;
    Ok(context.out.result(&json!({ "cid": cid, "bytes": bytes, "out": path }), || format!("wrote {bytes} bytes to {}", path.display()))?)
}

async fn write_file(content: &Content, cid: ContentId, limit: u64, path: &Path) -> anyhow::Result<()> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot write {}: {error}", path.display()), "choose another --out FILE");
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    write(content, cid, limit, aside.reopen().map_err(failed)?).await?;
    aside.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

async fn write(content: &Content, cid: ContentId, limit: u64, file: std::fs::File) -> anyhow::Result<()> {
    let mut writer = tokio::fs::File::from_std(file);
    content.local.get_to(cid, limit, &mut writer).await?;
    writer.flush().await?;
    Ok(writer.sync_all().await?)
}

/// The file, or a temporary copy of standard input.
async fn open(file: &Path) -> anyhow::Result<tokio::fs::File> {
    let read = |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", file.display()), "check the name of the file");
    if file != Path::new("-") {
        return Ok(tokio::fs::File::open(file).await.map_err(read)?);
    }
    let copied = tokio::task::spawn_blocking(|| {
        let mut copy = tempfile::tempfile()?;
        std::io::copy(&mut std::io::stdin().lock(), &mut copy)?;
        copy.rewind().map(|()| copy)
    });
    Ok(tokio::fs::File::from_std(copied.await?.map_err(read)?))
}

async fn collect(context: &Context, content: &Content) -> anyhow::Result<()> {
    let Some(store) = &content.embedded else {
        return Err(Failure::usage("a Kubo node collects its garbage itself", "run `ipfs repo gc` on its machine").into());
    };
    let report = store.collect_garbage().await?;
    let object = json!({ "removedBlocks": report.removed_blocks, "removedBytes": report.removed_bytes, "keptBytes": report.used_bytes });
    let text = || format!("removed {} blocks, {} bytes; {} bytes are kept", report.removed_blocks, report.removed_bytes, report.used_bytes);
    Ok(context.out.result(&object, text)?)
}

async fn list(context: &Context, content: &Content) -> anyhow::Result<()> {
    for cid in content.local.pins().await? {
        match content.local.stat(cid).await {
            Ok(stat) => {
                context.out.result(&json!({ "cid": cid, "bytes": stat.size_bytes }), || format!("{cid}  {} bytes", stat.size_bytes))?;
            }
            Err(error) => {
                let problem = error.to_string();
                context.out.result(&json!({ "cid": cid, "bytes": null, "problem": problem }), || format!("{cid}  {problem}"))?;
            }
        }
    }
    Ok(())
}
