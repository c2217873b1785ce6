//! The functions of FFmpeg that the program may call, by library.
//!
//! All that the wrapper crate refers to with its features in use, so that every linker leaves the
//! libraries out. A function that is not listed here is linked as usual: correct, but its library
//! is then loaded with the program.

/// Calls `$macro` with library, major version, and functions.
macro_rules! for_all_functions {
    ($macro:ident) => {
        $macro! {
            "avutil" LIBAVUTIL_VERSION_MAJOR {
                av_channel_layout_compare av_channel_layout_default av_color_primaries_name
                av_color_range_name av_color_space_name av_color_transfer_name av_dict_copy
                av_dict_free av_dict_get av_dict_set av_frame_alloc av_frame_copy
                av_frame_copy_props av_frame_free av_frame_get_buffer av_frame_get_side_data
                av_frame_new_side_data av_frame_side_data_name av_frame_unref av_free av_freep
                av_get_bits_per_pixel av_get_bytes_per_sample av_get_channel_layout_nb_channels
                av_get_default_channel_layout av_get_sample_fmt_name av_log_get_flags
                av_log_get_level av_log_set_flags av_log_set_level av_mallocz av_opt_set_bin
                av_opt_set_chlayout av_pix_fmt_desc_get av_realloc av_reduce av_sample_fmt_is_planar
                av_strdup av_strerror
            }
            "avcodec" LIBAVCODEC_VERSION_MAJOR {
                av_codec_is_decoder av_codec_is_encoder av_init_packet av_packet_new_side_data
                av_packet_ref av_packet_rescale_ts av_packet_unref avcodec_alloc_context3
                avcodec_close avcodec_configuration avcodec_encode_subtitle avcodec_find_decoder
                avcodec_find_decoder_by_name avcodec_find_encoder avcodec_find_encoder_by_name
                avcodec_flush_buffers avcodec_free_context avcodec_get_name
                avcodec_get_supported_config avcodec_get_type avcodec_license avcodec_open2
                avcodec_parameters_alloc avcodec_parameters_copy avcodec_parameters_free
                avcodec_parameters_from_context avcodec_parameters_to_context avcodec_receive_frame
                avcodec_receive_packet avcodec_send_frame avcodec_send_packet avcodec_version
            }
            "avformat" LIBAVFORMAT_VERSION_MAJOR {
                av_dump_format av_find_best_stream av_interleaved_write_frame av_read_frame
                av_read_pause av_read_play av_write_frame av_write_trailer avformat_alloc_context
                avformat_alloc_output_context2 avformat_close_input avformat_configuration
                avformat_find_stream_info avformat_free_context avformat_license
                avformat_network_deinit avformat_network_init avformat_new_stream
                avformat_open_input avformat_seek_file avformat_version avformat_write_header
                avio_alloc_context avio_close avio_context_free avio_flush avio_open avio_open2
                avio_size
            }
            "avfilter" LIBAVFILTER_VERSION_MAJOR {
                av_buffersink_get_frame av_buffersink_get_samples av_buffersink_get_time_base
                av_buffersink_set_frame_size av_buffersrc_add_frame av_buffersrc_close
                av_buffersrc_get_nb_failed_requests avfilter_configuration avfilter_filter_pad_count
                avfilter_get_by_name avfilter_graph_alloc avfilter_graph_config
                avfilter_graph_create_filter avfilter_graph_dump avfilter_graph_free
                avfilter_graph_get_filter avfilter_graph_parse_ptr avfilter_inout_alloc
                avfilter_inout_free avfilter_license avfilter_link avfilter_pad_count
                avfilter_pad_get_name avfilter_pad_get_type avfilter_version
            }
            "swscale" LIBSWSCALE_VERSION_MAJOR {
                sws_allocVec sws_freeContext sws_freeFilter sws_freeVec sws_getCachedContext
                sws_getContext sws_getDefaultFilter sws_getGaussianVec
                sws_isSupportedEndiannessConversion sws_isSupportedInput sws_isSupportedOutput
                sws_normalizeVec sws_scale sws_scaleVec swscale_configuration swscale_license
                swscale_version
            }
        }
    };
}

pub(super) use for_all_functions;
