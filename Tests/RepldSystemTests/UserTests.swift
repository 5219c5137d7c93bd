import Foundation
import Glibc
import RepldTestSupport
import Testing

extension SystemTests {
    /// Who may use a real daemon, and as what.
    @Suite(
        "A user",
        .requires(.root, .product("repld"), .product("replctl"), .tool("python3"))
    )
    struct UserTests {
        /// Starts a daemon that listens on TCP too, and returns the URL of that.
        private func start(_ daemon: Daemon, _ more: [String] = []) throws -> String {
            try daemon.start(["--control-listen", "127.0.0.1:0"] + more)
            let mark = "address=127.0.0.1:"
            let line = try daemon.process.errors().split(separator: "\n").first { $0.contains(mark) }
            let port = try #require(line?.components(separatedBy: mark).last?.prefix { $0.isNumber })
            return "http://127.0.0.1:\(port)"
        }

        private func replctl(_ bed: TestBed, _ url: String, _ user: String?, _ arguments: String...) throws -> Outcome {
            let login = user.map { ["--user", $0, "--password-file", bed.path($0)] } ?? []
            return try bed.run(try Product.path("replctl"), ["--control", url] + login + arguments)
        }

        @Test("is made, asks over TCP, is given a role and a password, and is taken away")
        func lifeOfAUser() throws {
            try withTestBed { bed in
                let daemon = try Daemon(bed: bed)
                let url = try start(daemon)
                let password = try bed.file("olga", text: "olga's password\n")
                let added = try daemon.controls(
                    "user",
                    "add",
                    "olga",
                    "--role",
                    "read-only",
                    "--new-password-file",
                    password
                )
                #expect(added == "olga  read-only\n")
                #expect(try replctl(bed, url, "olga", "volume", "ls").isSuccess)
                let empty = try bed.file("empty", text: "\n")
                let none = try daemon.control(["user", "add", "x", "--role", "operator", "--new-password-file", empty])
                #expect(none.ending == .exited(64) && none.errors.contains("its first line is empty"), "\(none)")
                let nobody = try replctl(bed, url, nil, "volume", "ls")
                #expect(nobody.ending == .exited(1) && nobody.errors.contains("a password are needed"), "\(nobody)")
                let denied = try replctl(bed, url, "olga", "user", "ls")
                #expect(denied.ending == .exited(1) && denied.errors.contains("user olga is read-only"), "\(denied)")
                try daemon.controls("user", "role", "olga", "operator")
                #expect(try replctl(bed, url, "olga", "user", "ls").output == "olga  operator\n")
                let other = try bed.file("other", text: "olga's next password")
                try daemon.controls("user", "passwd", "olga", "--new-password-file", other)
                let wrong = try replctl(bed, url, "olga", "volume", "ls")
                #expect(wrong.ending == .exited(1) && wrong.errors.contains("name or password wrong"), "\(wrong)")
                #expect(try daemon.process.errors().contains("wrong password"))
                try "olga's next password".write(toFile: bed.path("olga"), atomically: false, encoding: .utf8)
                #expect(try replctl(bed, url, "olga", "volume", "ls").isSuccess)
                try daemon.kill()
                let urlAfter = try start(daemon)
                #expect(try replctl(bed, urlAfter, "olga", "volume", "ls").isSuccess, "users outlive the daemon")
                try daemon.controls("user", "rm", "olga")
                #expect(try replctl(bed, urlAfter, "olga", "volume", "ls").ending == .exited(1))
                #expect(try !daemon.process.errors().contains("next password"), "the log has no password")
            }
        }

        @Test("of the host who may open the socket needs a password unless it is the daemon's own")
        func anotherUserOfTheHost() throws {
            try withTestBed { bed in
                let daemon = try Daemon(bed: bed)
                let file = try bed.file("repld.yaml", text: "control:\n  socket-mode: \"0666\"\n")
                try daemon.start(["--config", file])
                try FileManager.default.setAttributes([.posixPermissions: 0o711], ofItemAtPath: bed.directory)
                // Becomes another user only when all modules are loaded, which that user may not be able to read.
                let script = """
                    import base64, os, socket, sys
                    path, user_id, login = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
                    # From inside: the folders above may be closed to that user.
                    os.chdir(os.path.dirname(path))
                    if user_id:
                        os.setgroups([])
                        os.setgid(user_id)
                        os.setuid(user_id)
                    head = 'GET /v1/volumes HTTP/1.1\\r\\nHost: repld\\r\\nConnection: close\\r\\n'
                    for text in login:
                        head += 'Authorization: Basic ' + base64.b64encode(text.encode()).decode() + '\\r\\n'
                    connection = socket.socket(socket.AF_UNIX)
                    connection.connect(os.path.basename(path))
                    connection.sendall((head + '\\r\\n').encode())
                    answer = connection.makefile().read()
                    print(answer.split()[1], 'Basic realm="repld"' in answer)
                    """
                func ask(_ userID: Int, _ login: String...) throws -> String {
                    try bed.runs("python3", ["-c", script, daemon.controlSocket, String(userID)] + login)
                }
                #expect(try ask(0) == "200 False\n")
                #expect(try ask(65534) == "401 True\n")
                #expect(try ask(65534, "rita:rita's password") == "401 True\n", "there is no such user yet")
                let password = try bed.file("rita", text: "rita's password")
                try daemon.controls("user", "add", "rita", "--role", "read-only", "--new-password-file", password)
                #expect(try ask(65534, "rita:rita's password") == "200 False\n")
            }
        }

        @Test(
            "could send a password over the network, and the daemon refuses to listen for that",
            arguments: ["run", "check"]
        )
        func clearText(way: String) throws {
            try withTestBed { bed in
                let daemon = try Daemon(bed: bed)
                let file = try bed.file("repld.yaml", text: "control:\n  listen: 0.0.0.0:7700\n")
                let outcome =
                    way == "run"
                    ? try daemon.refuses(["--control-listen", "0.0.0.0:7700"])
                    : try bed.run(try Product.path("repld"), ["check-config", file])
                #expect(outcome.ending == .exited(78), "\(outcome)")
                #expect(outcome.errors.contains("clear text") && outcome.errors.contains("ssh -L"), "\(outcome)")
            }
        }
    }
}
