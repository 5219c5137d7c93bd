package import Foundation

/// Asks for a volume: `POST /v1/volumes`.
package struct VolumeAddRequest: StrictRequest, Hashable {
    package var name: String
    /// The file or block device that holds the data.
    package var elementPath: String
    /// Makes the element: a sparse file of this many bytes, which must not exist yet.
    package var createByteCount: UInt64?
    package var isReadOnly: Bool?
    /// The volume's size, where it is not to have all of its element: a multiple of 4096.
    package var byteCount: UInt64?
    /// Leaves room for the metadata of a pair with the default granule behind the volume.
    package var reservesMetadata: Bool?

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case name, elementPath, createByteCount, isReadOnly, byteCount, reservesMetadata
    }

    package init(
        name: String,
        elementPath: String,
        createByteCount: UInt64? = nil,
        isReadOnly: Bool? = nil,
        byteCount: UInt64? = nil,
        reservesMetadata: Bool? = nil
    ) {
        self.name = name
        self.elementPath = elementPath
        self.createByteCount = createByteCount
        self.isReadOnly = isReadOnly
        self.byteCount = byteCount
        self.reservesMetadata = reservesMetadata
    }
}

/// Gives a volume a larger size: `POST /v1/volumes/{name}/Grow`.
package struct VolumeGrowRequest: StrictRequest, Hashable {
    /// The new size; by default that of the smallest of the elements of the volume and its pairs.
    package var byteCount: UInt64?

    package enum CodingKeys: String, CodingKey, CaseIterable { case byteCount }

    package init(byteCount: UInt64? = nil) { self.byteCount = byteCount }
}

/// Lets hosts use a volume that is withheld: `POST /v1/volumes/{name}/Serve`.
package struct VolumeServeRequest: StrictRequest, Hashable {
    /// Although a peer may serve it.
    package var force: Bool?

    package enum CodingKeys: String, CodingKey, CaseIterable { case force }

    package init(force: Bool? = nil) { self.force = force }
}

/// What became of it.
package struct VolumeGrowReply: Codable, Hashable, Sendable {
    package var name: String
    /// The size that it had; the same as `byteCount` when that held already, and nothing was done.
    package var formerByteCount: UInt64
    package var byteCount: UInt64

    package init(name: String, formerByteCount: UInt64, byteCount: UInt64) {
        self.name = name
        self.formerByteCount = formerByteCount
        self.byteCount = byteCount
    }
}

/// A volume as `GET /v1/volumes/{name}` shows it.
package struct VolumeReply: Codable, Hashable, Sendable {
    package var name: String
    package var elementPath: String
    /// The element that serves hosts now, where that is not `elementPath`: a pair has failed over to it.
    package var servingPath: String?
    package var isReadOnly: Bool
    /// OK when it is served, Degraded when a pair of it is not mirroring by fault, Error when it is not served.
    package var status: Enumerated
    /// Why it is not served, or why hosts are kept away; absent when they are not.
    package var reason: String?
    /// Absent while the element is not open.
    package var byteCount: UInt64?
    package var blockByteCount: UInt32?
    /// Bytes of its own element behind it, that metadata may have; absent where there are none.
    package var reservedByteCount: UInt64?
    package var pairs: [String]
    /// The pair of a peer's whose replica it is, so that hosts cannot use it; absent where it is none.
    package var replicaOf: String?
    /// True while hosts are kept away, because a peer may serve it, or does; absent otherwise.
    package var isWithheld: Bool?
    package var createdAt: Date
    package var activity: VolumeActivity?

    package init(
        name: String,
        elementPath: String,
        isReadOnly: Bool,
        status: Enumerated,
        reason: String? = nil,
        byteCount: UInt64? = nil,
        blockByteCount: UInt32? = nil,
        pairs: [String] = [],
        createdAt: Date,
        activity: VolumeActivity? = nil
    ) {
        self.name = name
        self.elementPath = elementPath
        self.isReadOnly = isReadOnly
        self.status = status
        self.reason = reason
        self.byteCount = byteCount
        self.blockByteCount = blockByteCount
        self.pairs = pairs
        self.createdAt = createdAt
        self.activity = activity
    }
}

/// What hosts have done with a volume since it was opened.
package struct VolumeActivity: Codable, Hashable, Sendable {
    package var connectionCount: Int
    package var requestsInFlight: Int
    package var readCount: UInt64
    package var readByteCount: UInt64
    package var writeCount: UInt64
    package var writeByteCount: UInt64
    package var flushCount: UInt64
    package var failedRequestCount: UInt64
    package var readsServedByTarget: UInt64

    package init(
        connectionCount: Int,
        requestsInFlight: Int,
        readCount: UInt64,
        readByteCount: UInt64,
        writeCount: UInt64,
        writeByteCount: UInt64,
        flushCount: UInt64,
        failedRequestCount: UInt64,
        readsServedByTarget: UInt64
    ) {
        self.connectionCount = connectionCount
        self.requestsInFlight = requestsInFlight
        self.readCount = readCount
        self.readByteCount = readByteCount
        self.writeCount = writeCount
        self.writeByteCount = writeByteCount
        self.flushCount = flushCount
        self.failedRequestCount = failedRequestCount
        self.readsServedByTarget = readsServedByTarget
    }
}

/// All volumes, by name.
package struct VolumeListReply: Codable, Hashable, Sendable {
    package var volumes: [VolumeReply]
    package init(volumes: [VolumeReply]) { self.volumes = volumes }
}
