//! Sockets as open files (NetBSD `sys_socket.c`): read, write, poll, close.

use crate::socket::{MsgFlags, Socket};
use alloc::sync::Arc;
use core::any::Any;
use rumpkern::file::{File, FileFlags, FileOps};
use rumpkern::kmem;
use rumpkern::poll::{Events, SelInfo};
use rumpuser::Errno;

/// A socket behind a descriptor. The last close of the file closes the socket.
pub struct SocketFile {
    socket: Arc<Socket>,
}

impl SocketFile {
    /// An open file for a socket. The file owns it: dropping the file closes it. So does an error here; a peer that is connected, whom
    /// nobody here has answered, is told that it comes to nothing, and not that all has been said.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn open(socket: Arc<Socket>, flags: FileFlags) -> Result<Arc<File>, Errno> {
        let doomed = socket.clone();
        doomed.reset_on_close(true);
        let flags = flags | FileFlags::READ | FileFlags::WRITE;
        let file = kmem::try_arc(SocketFile { socket })
            .and_then(|ops| kmem::try_arc(File::new(flags, ops)));
        let file = file.inspect_err(|_| doomed.close())?;
        doomed.reset_on_close(false);
        Ok(file)
    }

    /// The socket behind a file.
    ///
    /// # Errors
    /// `ENOTSOCK`.
    pub fn socket_of(file: &File) -> Result<Arc<Socket>, Errno> {
        let ops = file.ops().as_any().downcast_ref::<SocketFile>();
        ops.map(|ops| ops.socket.clone()).ok_or(Errno::ENOTSOCK)
    }
}

/// What the file's flags mean for one transfer.
fn msg_flags(flags: FileFlags) -> MsgFlags {
    match flags.contains(FileFlags::NONBLOCK) {
        true => MsgFlags::MSG_DONTWAIT,
        false => MsgFlags::empty(),
    }
}

impl FileOps for SocketFile {
    fn read(&self, _: &mut u64, buffer: &mut [u8], flags: FileFlags) -> Result<usize, Errno> {
        let (n, _) = self.socket.receive(buffer, msg_flags(flags))?;
        Ok(n)
    }

    fn write(&self, _: &mut u64, buffer: &[u8], flags: FileFlags) -> Result<usize, Errno> {
        self.socket.send(buffer, None, msg_flags(flags))
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self, interest: Events) -> Events {
        self.socket.lock().events() & (interest | Events::ERROR | Events::HANGUP)
    }

    fn selinfo(&self) -> Option<&SelInfo> {
        Some(self.socket.selinfo())
    }

    fn close(&self) {
        self.socket.close();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
