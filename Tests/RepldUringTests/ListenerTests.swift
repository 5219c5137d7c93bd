import Foundation
import Glibc
import RepldCore
import RepldUring
import Testing

/// Listening addresses: taken, refused, given back; and error numbers.
@Suite struct ListenerTests {
    private func refusal(_ path: String) -> ListenError.Reason? {
        do throws(ListenError) {
            _ = try Listener.unix(path: path)
            return nil
        } catch {
            return error.reason
        }
    }

    @Test(
        "A socket file has the mode asked for, whatever the umask, and goes with its listener",
        arguments: [0o600, 0o660]
    )
    func mode(mode: UInt32) throws {
        let place = try TemporaryDirectory()
        let path = place.file("socket")
        do {
            let listener = try Listener.unix(path: path, mode: mode)
            var status = stat()
            stat(path, &status)
            #expect(status.st_mode & 0o777 == mode)
            #expect(listener.address == path && !listener.isTCP && listener.boundPort == 0)
        }
        #expect(access(path, F_OK) != 0)
    }

    @Test("A socket on which somebody listens is refused; one that nobody answers on is replaced")
    func stale() throws {
        let place = try TemporaryDirectory()
        let path = place.file("socket")
        do {
            let first = try Listener.unix(path: path)
            #expect(refusal(path) == .inUse)
            #expect(access(path, F_OK) == 0)
            withExtendedLifetime(first) {}
        }
        try run("python3", "-c", "import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])", path)
        #expect(access(path, F_OK) == 0)
        #expect(refusal(path) == nil)
    }

    @Test("A listener whose name was taken over leaves the new one alone")
    func takenOver() throws {
        let place = try TemporaryDirectory()
        let path = place.file("socket")
        var first: Listener? = try Listener.unix(path: path)
        try run("rm", path)
        let second = try Listener.unix(path: path)
        withExtendedLifetime(first) {}
        first = nil
        #expect(access(path, F_OK) == 0)
        withExtendedLifetime(second) {}
    }

    @Test("Other files, long paths and missing directories are refused")
    func refused() throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("file", 4096)
        #expect(refusal(path) == .notASocket)
        let long = place.file(String(repeating: "x", count: Listener.longestPath))
        #expect(refusal(long) == .pathTooLong(limit: 107))
        let fitting = place.path + "/" + String(repeating: "x", count: Listener.longestPath - place.path.utf8.count - 1)
        #expect(refusal(fitting) == nil)
        #expect(refusal(place.file("no/socket")) == .system(step: "opening its directory", errorNumber: ENOENT))
    }

    @Test("A port of one's own, and none that somebody has", arguments: ["127.0.0.1", "::1", "localhost"])
    func port(host: String) throws {
        let first = try Listener.tcp(host: host, port: 0)
        #expect(first.boundPort != 0 && first.isTCP)
        do throws(ListenError) {
            _ = try Listener.tcp(host: host, port: first.boundPort)
            Issue.record("a port was given twice")
        } catch {
            #expect(error.reason == .inUse)
        }
    }

    @Test("A host that does not exist is refused by name")
    func unknownHost() {
        do throws(ListenError) {
            _ = try Listener.tcp(host: "no such host", port: 0)
            Issue.record("a host was found")
        } catch {
            #expect(error.address == "no such host:0")
            #expect(error.description.contains("host name"))
        }
    }

    @Test(
        "Error numbers of the world become words",
        arguments: [
            (EIO, .inputOutput), (ENODATA, .inputOutput), (EREMOTEIO, .inputOutput), (EILSEQ, .inputOutput),
            (ENOLINK, .inputOutput), (12345, .inputOutput), (ENOSPC, .noSpace), (EDQUOT, .noSpace), (EFBIG, .noSpace),
            (EROFS, .readOnly), (EPERM, .readOnly), (EACCES, .readOnly), (EOPNOTSUPP, .notSupported),
            (ENOSYS, .notSupported), (ENOTTY, .notSupported), (EINVAL, .invalidArgument), (ENXIO, .gone),
            (ENODEV, .gone), (ENOMEDIUM, .gone), (ESHUTDOWN, .gone), (ECONNRESET, .gone), (EPIPE, .gone),
            (ETIMEDOUT, .timedOut), (ECANCELED, .cancelled), (ENOMEM, .noResources), (EMFILE, .noResources),
            (EBADF, .gone),
        ] as [(Int32, IOFailure)]
    )
    func words(number: Int32, failure: IOFailure) {
        #expect(ioFailure(ofErrorNumber: number) == failure)
    }

    @Test("Error numbers of our own mistakes stop the process")
    func mistakes() async {
        await #expect(processExitsWith: .failure) { _ = ioFailure(ofErrorNumber: ENOTSOCK) }
        await #expect(processExitsWith: .failure) { _ = ioFailure(ofErrorNumber: EFAULT) }
    }
}
