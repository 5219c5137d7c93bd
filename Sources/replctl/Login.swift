import Foundation
import RepldControlClient
import Synchronization

/// As whom the daemon is asked, and the password for that, which is read once and only when it is needed.
///
/// The whole process asks as one user.
struct Login: Sendable {
    private static let known = Mutex<ClientCredentials?>(nil)

    private let user: String?
    private let passwordFile: String?

    init(user: String?, passwordFile: String?) {
        self.user = Self.userName(user)
        self.passwordFile = passwordFile ?? ProcessInfo.processInfo.environment["REPLD_PASSWORD_FILE"]
    }

    /// The user of the command line, or of the environment.
    static func userName(_ option: String?) -> String? {
        option ?? ProcessInfo.processInfo.environment["REPLD_USER"]
    }

    /// Name and password; `nil` when none are to be presented.
    func credentials() throws -> ClientCredentials? {
        guard let user else { return nil }
        return try Self.known.withLock { known in
            if let known { return known }
            let password =
                if let passwordFile { try PasswordSource.file(passwordFile) } else {
                    try PasswordSource.terminal("Password of \(user): ")
                }
            let credentials = ClientCredentials(user: user, password: password)
            known = credentials
            return credentials
        }
    }
}
