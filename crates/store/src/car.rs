//! CAR, version 1 (<https://ipld.io/specs/transport/car/carv1/>): a file's blocks in one stream.

use bytes::Bytes;
use iroh_car::{CarHeader, CarReader, CarWriter};
use quern_types::ContentId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::{
    ContentStore, StoreError,
    dag::{Leaves, Seen, Walk},
};

/// Writes the blocks of the file `id`, depth first and each once, to `writer`; returns the length in bytes. Where this fails, the writer
/// has got a CAR that ends early.
pub async fn export<S: ContentStore + ?Sized>(
    store: &S,
    id: ContentId,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<u64, StoreError> {
    let mut car = CarWriter::new(CarHeader::new_v1(vec![to_cid(id)?]), writer);
    let mut walk = Walk::new(id, Leaves::Verified, Seen::new());
    let mut length = 0;
    while let Some((id, block)) = walk.next(store).await? {
        length += car.write(to_cid(id)?, block.unwrap_or_default()).await.map_err(car_error)? as u64;
    }
    car.finish().await.map_err(car_error)?;
    Ok(length)
}

/// Writes a CAR of the one block `id`; returns the length in bytes.
pub async fn export_block<S: ContentStore + ?Sized>(
    store: &S,
    id: ContentId,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<u64, StoreError> {
    let block = store.get_block(id).await?;
    let mut car = CarWriter::new(CarHeader::new_v1(vec![to_cid(id)?]), writer);
    let length = car.write(to_cid(id)?, block).await.map_err(car_error)?;
    car.finish().await.map_err(car_error)?;
    Ok(length as u64)
}

/// Stores every block of a CAR of at most `limit` bytes, each verified; returns the roots it names. Says nothing about completeness:
/// [`ContentStore::pin`] or [`ContentStore::stat`] does.
pub async fn import<S: ContentStore + ?Sized>(
    store: &S,
    reader: &mut (dyn AsyncRead + Send + Unpin),
    limit: u64,
) -> Result<Vec<ContentId>, StoreError> {
    let mut bounded = reader.take(limit);
    let mut car = CarReader::new(&mut bounded).await.map_err(car_error)?;
    let roots = car.header().roots().iter().map(from_cid).collect::<Result<_, _>>()?;
    while let Some((cid, block)) = car.next_block().await.map_err(car_error)? {
        store.put_block(from_cid(&cid)?, Bytes::from(block)).await?;
    }
    drop(car);
    if bounded.limit() == 0 {
        return Err(StoreError::Car { reason: format!("{limit} bytes or more, the caller takes less") });
    }
    Ok(roots)
}

fn to_cid(id: ContentId) -> Result<cid::Cid, StoreError> {
    cid::Cid::try_from(id.to_bytes().as_slice()).map_err(|error| StoreError::Car { reason: error.to_string() })
}

fn from_cid(cid: &cid::Cid) -> Result<ContentId, StoreError> {
    ContentId::from_bytes(&cid.to_bytes()).map_err(|error| StoreError::Car { reason: format!("{cid}: {error}") })
}

fn car_error(error: iroh_car::Error) -> StoreError {
    match error {
        iroh_car::Error::Io(source) => StoreError::Stream { action: "read or write a CAR", source },
        other => StoreError::Car { reason: other.to_string() },
    }
}
