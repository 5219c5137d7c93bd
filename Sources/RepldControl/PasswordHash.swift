internal import CCrypt
internal import Glibc
internal import RepldControlAPI
internal import SystemPackage

/// A password as it is kept: salted, and hashed slowly by yescrypt of libxcrypt, as Debian keeps those of its users.
///
/// The text is that of crypt(5): `$y$`, the cost, `$`, the salt, `$`, the hash.
package struct PasswordHash: Hashable, Sendable {
    /// About 0.1 s and 64 MiB on a machine of today; each step more doubles both.
    package static var defaultCost: Int { 7 }
    /// What libxcrypt takes.
    package static var costs: ClosedRange<Int> { 1...11 }

    private static var saltLength: Int { 22 }
    private static var digestLength: Int { 43 }

    package let text: String

    /// Hashes a password under a salt of its own; blocks for as long as that takes.
    ///
    /// Throws `invalidRequest` for a password that breaks `PasswordRule`, `notEnoughResources` when memory is short.
    package init(of password: String, cost: Int = Self.defaultCost) throws(ControlError) {
        if let fault = PasswordRule.fault(of: password) { throw ControlError(.invalidRequest, fault) }
        text = try Self.hash(password, setting: try Self.setting(cost: cost))
    }

    /// Takes the text of a hash that was kept; `nil` when it is none that this daemon writes.
    ///
    /// The cost is checked too: a damaged one could take hours, or all memory.
    package init?(text: String) {
        let parts = text.split(separator: "$", omittingEmptySubsequences: false)
        guard parts.count == 5, parts[0].isEmpty, parts[1] == "y", Self.knownCosts.contains(String(parts[2])),
            parts[3].utf8.count == Self.saltLength, parts[4].utf8.count == Self.digestLength,
            parts[3].utf8.allSatisfy(Self.isDigit), parts[4].utf8.allSatisfy(Self.isDigit)
        else { return nil }
        self.text = text
    }

    private init(unchecked text: String) { self.text = text }

    /// A hash that no password has, to spend on an unknown user the time that a known one costs.
    package static func ofNobody(cost: Int = Self.defaultCost) throws(ControlError) -> PasswordHash {
        let digest = String(repeating: ".", count: digestLength)
        return PasswordHash(unchecked: "\(try setting(cost: cost))$\(digest)")
    }

    /// Whether this is the hash of `password`; blocks for as long as the cost says, whatever the answer.
    ///
    /// Throws `notEnoughResources` when memory is short.
    package func matches(_ password: String) throws(ControlError) -> Bool {
        let isPossible = PasswordRule.fault(of: password) == nil
        let found = try Self.hash(isPossible ? password : "impossible", setting: text)
        return Self.isEqual(found, text) && isPossible
    }

    /// Compares without telling by its time how much was equal.
    private static func isEqual(_ left: String, _ right: String) -> Bool {
        let (left, right) = (Array(left.utf8), Array(right.utf8))
        guard left.count == right.count else { return false }
        var difference: UInt8 = 0
        for index in left.indices { difference |= left[index] ^ right[index] }
        return difference == 0
    }

    /// The words for cost that `crypt_gensalt` writes.
    private static let knownCosts: Set<String> = Set(
        costs.compactMap { cost in
            let parts = (try? setting(cost: cost))?.split(separator: "$")
            return parts.flatMap { $0.count == 3 ? String($0[1]) : nil }
        }
    )

    private static func isDigit(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
        case UInt8(ascii: "."), UInt8(ascii: "/"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
        default: false
        }
    }

    /// Method, cost and a fresh salt from the kernel's random numbers.
    private static func setting(cost: Int) throws(ControlError) -> String {
        let capacity = Int(CRYPT_GENSALT_OUTPUT_SIZE)
        let text = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: capacity) { output -> String? in
            guard let start = output.baseAddress,
                let setting = unsafe crypt_gensalt_rn("$y$", UInt(cost), nil, 0, start, Int32(capacity))
            else { return nil }
            return unsafe String(cString: setting)
        }
        guard let text else { throw failure("cannot make a salt for a password") }
        return text
    }

    private static func hash(_ password: String, setting: String) throws(ControlError) -> String {
        let byteCount = Int(REPLD_CRYPT_DATA_BYTE_COUNT)
        let scratch = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 16)
        unsafe memset(scratch, 0, byteCount)
        defer {
            // The password was copied into it.
            unsafe explicit_bzero(scratch, byteCount)
            unsafe scratch.deallocate()
        }
        guard let hash = unsafe crypt_rn(password, setting, scratch, Int32(byteCount)) else {
            throw failure("cannot hash a password")
        }
        return unsafe String(cString: hash)
    }

    private static func failure(_ words: String) -> ControlError {
        let reason = Errno(rawValue: Glibc.errno)
        return ControlError(reason == .noMemory ? .notEnoughResources : .internalFailure, words, underlying: reason)
    }
}
